"""A TCP proxy between clients and a broker, for tests that cut connections."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from broker.address import BrokerAddress


class Cable:
    """A TCP proxy on loopback between clients and a broker, which can be cut: all connections end at once."""

    def __init__(self) -> None:
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def to(self, address: BrokerAddress) -> AsyncIterator[BrokerAddress]:
        """The address to use instead of the broker's."""

        async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(address.host, address.port)
            self._writers |= {writer, back}
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

        server = await asyncio.start_server(join, "127.0.0.1", 0)
        try:
            yield dataclasses.replace(address, port=server.sockets[0].getsockname()[1])
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        """End all connections that there are; later ones are let through."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
