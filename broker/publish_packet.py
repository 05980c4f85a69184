"""Encodes and decodes PUBLISH packets (section 3.3 of MQTT 5 and 3.1.1) without copying large payloads.

It writes user properties, and skips them when it reads, because nothing needs them. It must never know what a payload
means.
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

MIN_VIEW_BYTES = 16 * 1024
"""Payloads of at least this size are not copied."""

_LENGTH = struct.Struct("!H")


class Arrived(NamedTuple):
    """A received publish. Its payload is a view of the packet if it has MIN_VIEW_BYTES and came at QoS 0."""

    topic: str
    payload: bytes | memoryview
    retain: bool
    nbytes: int
    """The bytes of topic, properties and payload."""


def read_publish(packet: Packet, is_v5: bool) -> tuple[Arrived, int]:
    """Return the publish and its packet identifier (0 at QoS 0). Raises MalformedPacket if it is truncated."""
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
    payload = view[at:] if len(view) - at >= MIN_VIEW_BYTES and not header & 6 else bytes(view[at:])
    return Arrived(topic, payload, bool(header & 1), len(view)), identifier


def publish_packet(publish: Publish, is_v5: bool) -> list[Buffer]:
    """Return the packet of a publish at QoS 0: a head with a small beginning of the payload, and views of the rest."""
    topic, payload = publish.topic.encode(), publish.payload
    about = _LENGTH.pack(len(topic)) + topic
    if is_v5:
        about += UserProperties(publish.properties).packed if publish.properties else bytes(1)
    head = bytes([PUBLISH | publish.retain]) + variable(len(about) + len(payload)) + about
    rest = list(payload.buffers) if isinstance(payload, Pieces) else [payload]
    while rest and len(rest[0]) < MIN_VIEW_BYTES:
        head += rest.pop(0)
    return [head, *rest]


def puback_packet(identifier: int) -> bytes:
    """Return the acknowledgement of a publish at QoS 1 (section 3.4), with reason code success."""
    return b"\x40\x02" + _LENGTH.pack(identifier)
