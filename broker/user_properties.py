"""User properties of MQTT 5, packed with little work: we write many and read none.

They repeat a message's header for whoever watches the topics; the payload has everything needed to decode it.
"""

import functools
import struct

from paho.mqtt.properties import VariableByteIntegers

_USER_PROPERTY = 38
"""Section 2.2.2.2 of MQTT 5."""


class UserProperties:
    """The properties of one publish, packed once; takes the place of paho's Properties."""

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        body = b"".join(map(_packed, pairs))
        self.packed: bytes = variable(len(body)) + body

    def pack(self) -> bytes:
        """As it stands in the packet: length and properties (section 2.2.2 of MQTT 5)."""
        return self.packed


@functools.lru_cache(4096)
def variable(number: int) -> bytes:
    """A variable byte integer (section 1.5.5 of MQTT 5); cached, for the publishes of a run have few lengths."""
    return bytes(VariableByteIntegers.encode(number))  # type: ignore[no-untyped-call]


@functools.lru_cache(4096)
def _packed(pair: tuple[str, str]) -> bytes:
    # Cached: kinds, devices and small numbers repeat all the time.
    key, value = (text.encode() for text in pair)
    return struct.pack("!BH", _USER_PROPERTY, len(key)) + key + struct.pack("!H", len(value)) + value
