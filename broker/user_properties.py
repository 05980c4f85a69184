"""User properties as paho sends and receives them, at the price of bytes: we write many and read none.

They mirror a message's header for whoever watches the topics; the payload has all that is needed to decode it. paho
builds a general object for each packet, and when it reads it copies the rest of the packet twice for each property:
5 ms for nine of them on 512 KiB.
"""

import struct
import threading
from collections.abc import Callable
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties, VariableByteIntegers

_USER_PROPERTY = 38
"""Section 2.2.2.2 of MQTT 5."""


class UserProperties:
    """The properties of one publish, packed once; takes the place of paho's Properties when sending."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        body = b"".join(struct.pack("!B", _USER_PROPERTY) + _utf8(key) + _utf8(value) for key, value in pairs)
        self.packed: bytes = VariableByteIntegers.encode(len(body)) + body  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        """As it stands in the packet: length and properties (section 2.2.2 of MQTT 5)."""
        return self.packed


Read = Callable[..., Any]


def skipping(read: Read) -> Read:
    """The `loop_read` of a client of ours, which steps over the properties of arriving publishes."""

    def loop_read(*arguments: Any) -> Any:
        _reading.ours = True
        try:
            return read(*arguments)
        finally:
            _reading.ours = False

    return loop_read


_reading = threading.local()
_read_all = Properties.unpack


def _unpack(properties: Properties, buffer: Any) -> tuple[Properties, int]:
    if properties.packetType != PacketTypes.PUBLISH or not getattr(_reading, "ours", False):
        found: tuple[Properties, int] = _read_all(properties, buffer)  # type: ignore[no-untyped-call]
        return found
    length, prefix = VariableByteIntegers.decode(buffer[:4])  # type: ignore[no-untyped-call]
    return properties, length + prefix


# paho makes the object itself, with no place to pass another in; whoever else uses paho in this process sees no change.
Properties.unpack = _unpack  # type: ignore[method-assign]


def _utf8(text: str) -> bytes:
    data = text.encode()
    return struct.pack("!H", len(data)) + data
