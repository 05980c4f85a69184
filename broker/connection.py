"""Connects to the broker: picks the client, tries all addresses of the name, and explains a failure in words."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.address import BrokerAddress
from broker.connect_errors import explained
from broker.dialing import resolve
from broker.direct_client import DirectClient
from broker.mqtt_client import MqttClient
from broker.mqtt_connection import FRAME_BYTES, Connection, MqttConnection
from broker.paho_steps import unverified
from broker.refusals import PublishRefused, Refused
from broker.slow_connection import slowed
from mpsl.errors import BrokerError
from mpsl.publish import Publish

__all__ = ["CONNECT_S", "FRAME_BYTES", "Connection", "PublishRefused", "Refused", "connect"]

CONNECT_S = 8.0
"""The maximum time of one attempt to connect, including the broker's answer."""


@asynccontextmanager
async def connect(
    address: BrokerAddress, client_id: str, will: Publish | None = None, patience_s: float = CONNECT_S
) -> AsyncIterator[Connection]:
    """Connect with a clean start, within `patience_s`.

    Raises BrokerError that names host, port and cause, or Refused if trying again is useless.
    """
    client = await _first_that_answers(address, client_id, will, patience_s)
    try:
        connection = MqttConnection(client)
        if address.link is None:
            yield connection
        else:
            async with slowed(connection, address.link, client.is_v5) as slow:
                yield slow
    finally:
        await client.disconnect()


async def _first_that_answers(
    address: BrokerAddress, client_id: str, will: Publish | None, patience_s: float
) -> MqttClient:
    """Connect to the first broker that accepts. All processes try them in the same order, so they meet there."""
    brokers = (address, *address.alternatives)
    failures: list[BrokerError] = []
    for broker in brokers:
        try:
            return await _opened(broker, client_id, will, patience_s / len(brokers))
        except BrokerError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(map(str, failures))
    # Trying again is useful if it is useful for one of them.
    kind = Refused if all(isinstance(error, Refused) for error in failures) else BrokerError
    raise kind(reasons)


async def _opened(address: BrokerAddress, client_id: str, will: Publish | None, patience_s: float) -> MqttClient:
    """Connect to one broker. An address that accepts but is not a broker only costs its own attempt."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_s
    kind = client_class()
    try:
        async with asyncio.timeout_at(deadline):
            addresses = await resolve(address.host, address.port)
    except (OSError, TimeoutError) as error:
        raise _failed(address, error, patience_s, False) from None
    while True:
        client = kind(address, client_id, will)
        turn_s = max(0.0, deadline - clock()) / len(addresses)
        try:
            await client.connect(addresses, turn_s)
            return client
        except BrokerError:
            client.abort()
            raise
        except (OSError, TimeoutError, ValueError) as error:
            client.abort()
            addresses = [each for each in addresses if each != client.reached]
            another = client.reached is not None or isinstance(error, TimeoutError)
            if not another or not addresses or clock() >= deadline:
                raise _failed(address, error, patience_s, client.taken) from None
        except BaseException:
            client.abort()
            raise


def _failed(address: BrokerAddress, error: BaseException, patience_s: float, reached: bool) -> BrokerError:
    return BrokerError(f"no connection to broker {address.shown}: {explained(error, address, patience_s, reached)}")


@functools.cache
def client_class() -> type[MqttClient]:
    """Return the fast client if the installed paho is as verified; else the one over public calls, with one warning."""
    reason = unverified()
    if reason is None:
        return DirectClient
    print(f"level=warning event=mqtt-client-slower reason={reason!r}", file=sys.stderr, flush=True)
    return MqttClient
