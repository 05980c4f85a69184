"""The fast MQTT client: publishes at QoS 0 bypass paho, over a socket that this package opens and drives.

paho copies a packet three times when it reads it and once for each write, one packet per turn of the event loop; these
packets are a megabyte. One inner step of paho is replaced, `_create_socket`, and only in verified releases
(`broker.paho_steps`).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.exception import MalformedPacket

from broker.address import BrokerAddress
from broker.dialing import SocketAddress, dial, secure
from broker.mqtt_client import ANSWER_S, GOODBYE_S, TICK_S, MqttClient
from broker.packet_socket import PacketSocket
from broker.publish_packet import publish_packet
from mpsl.errors import BrokerError
from mpsl.publish import Publish

_PINGRESP = b"\xd0\x00"


class _Paho(paho.Client):
    """A paho client that uses a socket which is already open."""

    opened: Any = None

    def _create_socket(self) -> Any:
        return self.opened


class DirectClient(MqttClient):
    """Like its base, but faster. Packets from paho overtake waiting publishes at QoS 0."""

    _paho_kind = _Paho
    _socket: PacketSocket | None = None
    _heard_bytes = 0

    def _register(self, address: BrokerAddress) -> None:
        # paho writes when it is told to, and this socket always accepts everything.
        self._paho.on_socket_register_write = self._on_socket_register_write
        self._context = address.context()

    async def _open(self, addresses: Sequence[SocketAddress], patience_s: float) -> None:
        raw, self.reached = await dial(addresses)
        self.taken = True
        if self._context is not None:
            raw = await secure(raw, self._context, self._address.host)
        self._socket = PacketSocket(
            raw, self.is_v5, self._arrivals.put_nowait, lambda: self._guarded(self._paho.loop_read)
        )
        assert isinstance(self._paho, _Paho)
        self._paho.opened = self._socket
        self._connect_async(self._address.host)
        self._paho.reconnect()

    def _on_socket_register_write(self, *_: Any) -> None:
        self._loop.call_soon(self._guarded, self._paho.loop_write)

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """Like its base; several publishes that fit go out in one system call."""
        self._check_open()
        assert self._socket is not None
        self._socket.put([publish_packet(publish, self.is_v5) for publish in publishes])
        try:
            await self._socket.drained(ANSWER_S)
        except TimeoutError:
            raise BrokerError(f"the broker has accepted no bytes for {ANSWER_S:g} s") from None
        if self._socket.error is not None:
            raise BrokerError(self._lost or self._cause())

    async def arrived(self) -> Any:
        """As its base."""
        return self._arrivals.get_nowait() if self._arrivals.qsize() > 1 else await super().arrived()

    @property
    def received_bytes(self) -> int:
        """As its base."""
        return self._socket.received_bytes if self._socket is not None else 0

    def abort(self) -> None:
        """As its base."""
        super().abort()
        if self._socket is not None:
            self._socket.abort()

    async def _gone(self) -> None:
        assert self._socket is not None
        await self._socket.closed(GOODBYE_S)

    def _cause(self) -> str:
        error = self._socket.error if self._socket is not None else None
        if isinstance(error, MalformedPacket):
            return f"the other end sent bytes that are not MQTT: {error}"
        if isinstance(error, OSError) and not self._leaving:
            return f"the connection was lost: {error.strerror or error or type(error).__name__}"
        return super()._cause()

    def _failure(self, reason: str) -> Exception:
        error = self._socket.error if self._socket is not None else None
        return error if isinstance(error, OSError) else super()._failure(reason)

    async def _tick(self) -> None:
        """Tell paho, as an answer to its ping, that bytes have arrived which bypassed it."""
        while self._lost is None:
            await asyncio.sleep(TICK_S)
            socket = self._socket
            if socket is not None and socket.received_bytes != self._heard_bytes and self._lost is None:
                self._heard_bytes = socket.received_bytes
                socket.feed(_PINGRESP)
            if self._lost is None:
                self._guarded(self._paho.loop_misc)
