"""The MQTT client library at the price of bytes: aiomqtt over paho, without the copies that paho makes of each packet.

paho copies a packet three times when it reads it and once each time that it writes, and asks the event loop for
each; our packets are a megabyte. What is replaced here are steps inside paho, with the same outcome; a release
that moves them is noticed by tests/test_mqtt_client.py.
"""

import asyncio
import bisect
import itertools
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import aiomqtt
from msgspec import Struct
from paho.mqtt.client import PUBLISH, MQTTv5
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import VariableByteIntegers

from broker.packet_reader import Packet, PacketReader
from broker.user_properties import UserProperties, variable
from mpsl.pieces import Content, Pieces
from mpsl.wire import Buffer

MAX_READS = 16
"""Packets that are read in one turn of the event loop,"""
MAX_READ_BYTES = 1024 * 1024
"""or bytes of them: what is read has to be acknowledged before the sender's window is full."""
LARGE = 16 * 1024
"""Bytes of a payload that are worth not being copied."""
MAX_PARTS = 1024
"""What one call of the system takes (IOV_MAX of Linux)."""
TYPE = 0xF0
"""The bits of a packet's first byte that say what it is."""

_LENGTH = struct.Struct("!H")


class Arrived(NamedTuple):
    """A publish that has come in; the payload is a view of the packet where it is LARGE and came at QoS 0."""

    topic: str
    payload: bytes | memoryview
    retain: bool
    nbytes: int
    """Of topic, properties and payload as they came."""


def read_publish(packet: Packet, five: bool) -> tuple[Arrived, int]:
    """Section 3.3 of MQTT 5 (`five`) or 3.1.1: the publish, and its identifier (0 at QoS 0).

    Its properties are stepped over: nobody reads them. Raises MalformedPacket where it is cut off.
    """
    header, view = packet
    identifier = 0
    try:
        (length,) = _LENGTH.unpack_from(view)
        at = 2 + length
        topic = str(view[2:at], "utf-8")
        if header & 6:
            (identifier,) = _LENGTH.unpack_from(view, at)
            at += 2
    except (struct.error, UnicodeDecodeError) as error:
        raise MalformedPacket(str(error)) from None
    if at > len(view):
        raise MalformedPacket(f"a topic that ends at {at} in a packet of {len(view)}")
    if five:
        size, prefix = VariableByteIntegers.decode(view[at : at + 4])  # type: ignore[no-untyped-call]
        at += size + prefix
        if at > len(view):
            raise MalformedPacket(f"properties that end at {at} in a packet of {len(view)}")
    payload = view[at:] if len(view) - at >= LARGE and not header & 6 else bytes(view[at:])
    return Arrived(topic, payload, bool(header & 1), len(view)), identifier


class Unacknowledged(Struct, frozen=True, gc=False):
    """A publish at QoS 0."""

    topic: str
    payload: Content
    retain: bool
    properties: UserProperties | None


class Parts:
    """A packet that is sent from where its parts lie: paho asks for its length, and for what is left of it."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, left: slice) -> "Parts":
        start = left.start or 0
        if not start:
            return self
        first = bisect.bisect_right(self._ends, start)
        if first == len(self.parts):
            return Parts([])
        part = memoryview(self.parts[first])
        return Parts([part[start - self._ends[first] + len(part) :], *self.parts[first + 1 :]])


class Client(aiomqtt.Client):
    """Remembers the broker's Maximum Packet Size, which aiomqtt drops; reads and writes at once what the socket has."""

    max_packet: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._drained = asyncio.Event()
        self._reader = PacketReader(self._receive)
        inner: Any = self._client
        self._queue_packet, self._send_bytes = inner._packet_queue, inner._sock_send
        inner.loop_read = self._read
        inner._packet_queue = self._queue_view
        inner._sock_send = self._send

    async def publish_at_once(self, messages: Sequence[Unacknowledged], timeout: float) -> None:
        """Publish at QoS 0; returns once the socket has everything that waited to be sent.

        What paho and aiomqtt note of each publish (a lock, a reason, a confirmation) nobody asks for at QoS 0; it would
        cost more than 64 KiB on the wire. Several go out as what paho takes for one packet, in one call of the system.
        Raises MqttError when the connection is gone, or takes nothing for `timeout`.
        """
        inner: Any = self._client
        if inner._sock is None:
            raise aiomqtt.MqttCodeError(MQTTErrorCode.MQTT_ERR_NO_CONN, "Could not publish message")
        five = inner._protocol == MQTTv5
        parts = [part for message in messages for part in self._packet(message, five)]
        # At QoS 0 paho would say of each packet that it is sent, at some length; nobody listens.
        result = self._queue_packet(PUBLISH, parts[0] if len(parts) == 1 else Parts(parts), 0, 1, None)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise aiomqtt.MqttCodeError(result, "Could not publish message")
        try:
            while inner.want_write() and not self._disconnected.done():
                self._drained.clear()
                await asyncio.wait_for(self._drained.wait(), timeout)
        except TimeoutError:
            raise aiomqtt.MqttError("Operation timed out") from None
        if self._disconnected.done():
            raise aiomqtt.MqttError("Disconnected while a message was being sent")

    async def arrived(self) -> Arrived:
        """The next message; without a task of its own for one that is there already, as aiomqtt has for each."""
        queue: Any = self._queue
        found: Any = await anext(self.messages) if queue.empty() else queue.get_nowait()
        assert isinstance(found, Arrived)
        return found

    def _read(self, *_: object) -> Any:
        """Packets as long as there are any: each would cost a turn of the event loop."""
        inner: Any = self._client
        count = read = 0
        while inner._sock is not None:
            try:
                packet = self._reader.next()
            except BlockingIOError:
                break
            except MalformedPacket:
                return self._lost(MQTTErrorCode.MQTT_ERR_PROTOCOL)
            except (OSError, EOFError):
                return self._lost(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            result = self._handle(packet)
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return self._lost(result)
            count, read = count + 1, read + len(packet.body)
            if (count >= MAX_READS or read >= MAX_READ_BYTES) and not self._ahead:
                break
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _queue_view(self, command: int, packet: bytes | bytearray, *arguments: Any) -> Any:
        """paho cuts off what is left of a packet each time it writes: of a view that costs nothing."""
        return self._queue_packet(command, memoryview(packet), *arguments)

    def _packet(self, message: Unacknowledged, five: bool) -> Iterable[Buffer]:
        """A head (section 3.3) with what is small of the payload's beginning, and the rest of it where it is."""
        topic, payload = message.topic.encode(), message.payload
        about = _LENGTH.pack(len(topic)) + topic
        if five:
            about += message.properties.pack() if message.properties is not None else bytes(1)
        head = bytes([PUBLISH | message.retain]) + variable(len(about) + len(payload)) + about
        rest = list(payload.buffers) if isinstance(payload, Pieces) else [payload]
        while rest and len(rest[0]) < LARGE:
            head += rest.pop(0)
        return (head, *rest)

    def _send(self, packet: "Parts | memoryview") -> int:
        """As paho does; the parts of a packet in one call of the system, where the socket can."""
        if not isinstance(packet, Parts):
            return int(self._send_bytes(packet))
        inner: Any = self._client
        if not isinstance(inner._sock, socket.socket) or isinstance(inner._sock, ssl.SSLSocket):
            return int(self._send_bytes(packet.parts[0]))
        try:
            return inner._sock.sendmsg(packet.parts[:MAX_PARTS])
        except BlockingIOError:
            inner._call_socket_register_write()
            raise

    @property
    def _ahead(self) -> bool:
        """Whether there is something that the socket will not announce: it has been received, or decrypted."""
        inner: Any = self._client
        return self._reader.ahead or bool(isinstance(inner._sock, ssl.SSLSocket) and inner._sock.pending())

    def _receive(self, room: memoryview) -> int:
        inner: Any = self._client
        if inner._sock is None:
            raise ConnectionError("the socket is closed")
        try:
            received: int = inner._sock.recv_into(room)
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            inner._call_socket_register_write()
            raise BlockingIOError from None
        inner._last_bytes_received = time.monotonic()
        return received

    def _lost(self, reason: MQTTErrorCode) -> Any:
        inner: Any = self._client
        return inner._loop_rc_handle(reason)

    def _handle(self, packet: Packet) -> Any:
        """A publish is handed on, and acknowledged where it asks for that; all else is paho's."""
        inner: Any = self._client
        qos = packet.header >> 1 & 3
        try:
            if packet.header & TYPE != PUBLISH or qos > 1:
                size, whole = len(packet.body), bytearray(packet.body)
                inner._in_packet |= {"command": packet.header, "remaining_length": size, "packet": whole}
                return inner._packet_handle()
            arrived, identifier = read_publish(packet, inner._protocol == MQTTv5)
        except MalformedPacket:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        queue: Any = self._queue
        queue.put_nowait(arrived)
        return inner._send_puback(identifier) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(self, *arguments: Any) -> None:
        super()._on_disconnect(*arguments)
        self._drained.set()

    def _on_socket_unregister_write(self, client: Any, userdata: Any, sock: Any) -> None:
        super()._on_socket_unregister_write(client, userdata, sock)
        self._drained.set()

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        # Waiting until the socket is writable costs a turn of the event loop and two calls of epoll for each publish.
        # While it connects, paho calls this from another thread.
        if self._connected.done():
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)
                self._drained.set()
                return
            if not client.want_write():
                return
        super()._on_socket_register_write(client, userdata, sock)
