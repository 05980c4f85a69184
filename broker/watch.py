"""Opens a read-only connection for `tap` and `ls`, and gives up if the broker does not answer in time.

It must never publish, so it needs read rights only.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from broker.connection import CONNECT_S, Connection, Refused, connect
from broker.options import NetworkOptions, default_id, new_boot
from mpsl.errors import BrokerError
from mpsl.topics import client_id

PATIENCE_S = 10.0
PAUSE_S = 0.5
LAST_ATTEMPT_S = 1.0
"""The minimum time of an attempt, even if patience is nearly over."""


@asynccontextmanager
async def watching(network: NetworkOptions, role: str, filters: tuple[str, ...]) -> AsyncIterator[Connection]:
    """Open a connection subscribed to `filters`. After 10 s, raises BrokerError with host, port and cause."""
    async with AsyncExitStack() as stack:
        yield await _connected(stack, network, role, filters)


async def _connected(stack: AsyncExitStack, network: NetworkOptions, role: str, filters: tuple[str, ...]) -> Connection:
    clock = asyncio.get_running_loop().time
    deadline = clock() + PATIENCE_S
    name = client_id(role, default_id(role), new_boot())
    while True:
        attempt_s = min(CONNECT_S, max(LAST_ATTEMPT_S, deadline - clock()))
        try:
            connection = await stack.enter_async_context(connect(network.address, name, patience_s=attempt_s))
            async with asyncio.timeout(PATIENCE_S):
                await connection.subscribe(filters)
            return connection
        except Refused:
            raise
        except TimeoutError:
            raise BrokerError(
                f"broker {network.address.shown} does not answer a subscription for {PATIENCE_S:g} s; is it overloaded?"
            ) from None
        except BrokerError as error:
            if clock() + PAUSE_S >= deadline:
                raise BrokerError(f"{error}; gave up after {PATIENCE_S:g} s") from None
        await asyncio.sleep(PAUSE_S)
