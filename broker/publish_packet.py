"""A PUBLISH packet as bytes, and back (section 3.3 of MQTT 5 and 3.1.1), without a copy of what is large.

User properties are written and stepped over: nothing reads them back. It must never know what a payload means.
"""

import struct
from typing import NamedTuple

from paho.mqtt.client import PUBLISH
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import VariableByteIntegers

from broker.packet_reader import Packet
from broker.user_properties import UserProperties, variable
from mpsl.pieces import Pieces
from mpsl.publish import Publish
from mpsl.wire import Buffer

LARGE = 16 * 1024
"""Bytes of a payload that are worth not being copied."""

_LENGTH = struct.Struct("!H")


class Arrived(NamedTuple):
    """A publish that has come in; the payload is a view of the packet where it is LARGE and came at QoS 0."""

    topic: str
    payload: bytes | memoryview
    retain: bool
    nbytes: int
    """Of topic, properties and payload as they came."""


def read_publish(packet: Packet, is_v5: bool) -> tuple[Arrived, int]:
    """The publish and its packet identifier (0 at QoS 0); raises MalformedPacket where it is cut off."""
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
    if is_v5:
        size, prefix = VariableByteIntegers.decode(view[at : at + 4])  # type: ignore[no-untyped-call]
        at += size + prefix
        if at > len(view):
            raise MalformedPacket(f"properties that end at {at} in a packet of {len(view)}")
    payload = view[at:] if len(view) - at >= LARGE and not header & 6 else bytes(view[at:])
    return Arrived(topic, payload, bool(header & 1), len(view)), identifier


def publish_packet(publish: Publish, is_v5: bool) -> list[Buffer]:
    """The packet of a publish at QoS 0: a head with the small beginning of the payload, and the rest where it lies."""
    topic, payload = publish.topic.encode(), publish.payload
    about = _LENGTH.pack(len(topic)) + topic
    if is_v5:
        about += UserProperties(publish.properties).packed if publish.properties else bytes(1)
    head = bytes([PUBLISH | publish.retain]) + variable(len(about) + len(payload)) + about
    rest = list(payload.buffers) if isinstance(payload, Pieces) else [payload]
    while rest and len(rest[0]) < LARGE:
        head += rest.pop(0)
    return [head, *rest]


def puback_packet(identifier: int) -> bytes:
    """The acknowledgement of a publish at QoS 1 (section 3.4), with success for its reason."""
    return b"\x40\x02" + _LENGTH.pack(identifier)
