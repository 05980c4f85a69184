"""The MQTT client library at the price of bytes: aiomqtt over paho, without the copies that paho makes of each packet.

paho copies a packet three times when it reads it and once each time that it writes, and asks the event loop for
each; our packets are half a megabyte. What is replaced here are steps inside paho, with the same outcome; a release
that moves them is noticed by tests/test_mqtt_client.py.
"""

import struct
from typing import Any, NamedTuple

import aiomqtt
from paho.mqtt.client import MQTTv5
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import VariableByteIntegers

MOST_READS = 16
"""Packets that are read in one turn of the event loop."""
LARGE = 16 * 1024
"""Bytes of a payload that are worth not being copied."""

_LENGTH = struct.Struct("!H")


class Arrived(NamedTuple):
    """A publish that has come in; the payload is a view of the packet where it is LARGE and came at QoS 0."""

    topic: str
    payload: bytes | memoryview
    retain: bool


def read_publish(header: int, packet: bytearray, five: bool) -> tuple[Arrived, int]:
    """Section 3.3 of MQTT 5 (`five`) or 3.1.1: the publish of fixed header `header`, and its identifier (0 at QoS 0).

    Its properties are stepped over: nobody reads them. Raises MalformedPacket where it is cut off.
    """
    view = memoryview(packet)
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
    return Arrived(topic, payload, bool(header & 1)), identifier


class Client(aiomqtt.Client):
    """Remembers the broker's Maximum Packet Size, which aiomqtt drops; reads and writes at once what the socket has."""

    max_packet: int | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        inner: Any = self._client
        self._read_one, self._queue_packet, self._handle_any = (
            inner.loop_read,
            inner._packet_queue,
            inner._handle_publish,
        )
        inner.loop_read = self._read
        inner._packet_queue = self._queue_view
        inner._handle_publish = self._handle_publish

    async def arrived(self) -> Arrived:
        """The next message; without a task of its own for one that is there already, as aiomqtt has for each."""
        queue: Any = self._queue
        found: Any = await anext(self.messages) if queue.empty() else queue.get_nowait()
        assert isinstance(found, Arrived)
        return found

    def _read(self, *arguments: Any) -> Any:
        """Packets as long as there are any: each would cost a turn of the event loop."""
        for _ in range(MOST_READS):
            before = self._queue.qsize()
            result = self._read_one(*arguments)
            if result != MQTTErrorCode.MQTT_ERR_SUCCESS or self._queue.qsize() == before:
                break
        return result

    def _queue_view(self, command: int, packet: bytes | bytearray, *arguments: Any) -> Any:
        """paho cuts off what is left of a packet each time it writes: of a view that costs nothing."""
        return self._queue_packet(command, memoryview(packet), *arguments)

    def _handle_publish(self) -> Any:
        """A publish has come in whole: hand it on, and acknowledge it where it asks for that."""
        inner: Any = self._client
        header, packet = inner._in_packet["command"], inner._in_packet["packet"]
        qos = header >> 1 & 3
        if qos == 2:
            return self._handle_any()
        arrived, identifier = read_publish(header, packet, inner._protocol == MQTTv5)
        queue: Any = self._queue
        queue.put_nowait(arrived)
        return inner._send_puback(identifier) if qos else MQTTErrorCode.MQTT_ERR_SUCCESS

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None) -> None:
        self.max_packet = getattr(properties, "MaximumPacketSize", None)
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_socket_register_write(self, client: Any, userdata: Any, sock: Any) -> None:
        # Waiting until the socket is writable costs a turn of the event loop and two calls of epoll for each publish.
        # While it connects, paho calls this from another thread.
        if self._connected.done():
            try:
                client.loop_write()
            except Exception as error:
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)
                return
            if not client.want_write():
                return
        super()._on_socket_register_write(client, userdata, sock)
