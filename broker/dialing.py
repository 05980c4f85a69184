"""Opens the socket to a broker: all addresses of its name, in short turns, and TLS. It knows nothing of MQTT.

The addresses are raced as "happy eyeballs" does (RFC 8305): each gets a head start of a quarter of a second over the
next one, and the first that answers wins. So a dead address costs a quarter of a second and not the whole attempt.
"""

import asyncio
import itertools
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

HEAD_START_S = 0.25
TCP_NODELAY_OPTION = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""Without it, a small publish may wait up to 40 ms until the other system has acknowledged the one before."""


@dataclass(frozen=True)
class SocketAddress:
    """One address of a host, as the system resolves it."""

    family: int
    kind: int
    protocol: int
    address: Any

    def __str__(self) -> str:
        host, port = self.address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(host: str, port: int) -> list[SocketAddress]:
    """Return all addresses of `host`, alternating families. Raises OSError for an unknown name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(SocketAddress(family, kind, proto, at) for family, kind, proto, _, at in found))
    first = [address for address in addresses if address.family == addresses[0].family]
    other = [address for address in addresses if address.family != addresses[0].family]
    turns = itertools.zip_longest(first, other)
    return [address for turn in turns for address in turn if address is not None]


async def dial(addresses: Sequence[SocketAddress]) -> tuple[socket.socket, SocketAddress]:
    """Return a connected socket and the address that answered first.

    Raises OSError with the reason of every address if all have failed. Cancel it to end the attempt.
    """
    waiting = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], SocketAddress] = {}
    failures: dict[SocketAddress, OSError] = {}
    try:
        while waiting or attempts:
            if waiting:
                address = waiting.pop(0)
                attempts[asyncio.create_task(_connect(address), name=f"dial-{address}")] = address
            done, _ = await asyncio.wait(
                attempts, timeout=HEAD_START_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                address = attempts.pop(attempt)
                error = attempt.exception()
                if error is None:
                    return attempt.result(), address
                if not isinstance(error, OSError):
                    raise error
                failures[address] = error
    finally:
        for attempt in attempts:
            attempt.cancel()
        for late in await asyncio.gather(*attempts, return_exceptions=True):
            if isinstance(late, socket.socket):
                late.close()
    raise _joined(failures)


async def secure(raw: socket.socket, context: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Return `raw` under TLS after the handshake, still non-blocking; owns `raw`. Raises ssl.SSLError or OSError."""
    wrapped = context.wrap_socket(raw, server_hostname=host, do_handshake_on_connect=False)
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                await _ready(wrapped.fileno(), loop.add_reader, loop.remove_reader)
            except ssl.SSLWantWriteError:
                await _ready(wrapped.fileno(), loop.add_writer, loop.remove_writer)
    except BaseException:
        wrapped.close()
        raise


async def _ready(file: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def announce() -> None:
        if not ready.done():
            ready.set_result(None)

    add(file, announce)
    try:
        await ready
    finally:
        remove(file)


async def _connect(address: SocketAddress) -> socket.socket:
    raw = socket.socket(address.family, address.kind, address.protocol)
    try:
        raw.setblocking(False)
        raw.setsockopt(*TCP_NODELAY_OPTION)
        await asyncio.get_running_loop().sock_connect(raw, address.address)
    except BaseException:
        raw.close()
        raise
    return raw


def _joined(failures: dict[SocketAddress, OSError]) -> OSError:
    """Return one error that names each address and why it failed."""
    said = {address: error.strerror or str(error) or type(error).__name__ for address, error in failures.items()}
    text = "; ".join(
        f"{', '.join(str(a) for a in said if said[a] == why)}: {why}" for why in dict.fromkeys(said.values())
    )
    numbers = {error.errno for error in failures.values()}
    kinds = {type(error) for error in failures.values()}
    if len(kinds) == 1 and len(numbers) == 1:
        return kinds.pop()(numbers.pop(), text)
    return OSError(text or "the name has no address")
