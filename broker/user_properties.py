"""User properties of MQTT 5, packed with little work, because a run writes many and reads none.

They repeat a message's header for people who watch the topics; the payload has everything needed to decode it.
"""

import functools
import struct

from paho.mqtt.properties import VariableByteIntegers

_USER_PROPERTY = 38
"""Section 2.2.2.2 of MQTT 5."""


class UserProperties:
    """The properties of one publish, packed once. It replaces paho's Properties."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        body = b"".join(map(_packed, pairs))
        self.packed: bytes = variable(len(body)) + body

    def pack(self) -> bytes:
        """Return length and properties as they are in the packet (section 2.2.2 of MQTT 5)."""
        return self.packed


@functools.lru_cache(4096)
def variable(number: int) -> bytes:
    """Encode a variable byte integer (section 1.5.5 of MQTT 5). Cached, because few lengths occur."""
    return bytes(VariableByteIntegers.encode(number))  # type: ignore[no-untyped-call]


@functools.lru_cache(4096)
def _packed(pair: tuple[str, str]) -> bytes:
    # Cached: kinds, devices and small numbers repeat all the time.
    key, value = (text.encode() for text in pair)
    return struct.pack("!BH", _USER_PROPERTY, len(key)) + key + struct.pack("!H", len(value)) + value
