"""Our client reads a publish as paho does, copies nothing that is large, and hangs on steps that paho still has."""

import struct

import pytest
from paho.mqtt import client as paho
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket

from broker.mqtt_client import LARGE, Client, read_publish
from broker.user_properties import UserProperties

PAIRS = (("kind", "activation"), ("größe", "½ MB"))


def packet(payload: bytes, qos: int, five: bool, topic: str = "mpsl/v1/größe") -> bytearray:
    name = topic.encode()
    start = struct.pack("!H", len(name)) + name + (struct.pack("!H", 7) if qos else b"")
    return bytearray(start + (UserProperties(PAIRS).pack() if five else b"") + payload)


@pytest.mark.parametrize("five", [True, False])
@pytest.mark.parametrize("header", [0x30, 0x31, 0x32, 0x33])
@pytest.mark.parametrize("payload", [b"", b"{}", b"x" * LARGE])
def test_a_publish_is_read_as_paho_reads_it(header: int, five: bool, payload: bytes) -> None:
    whole = packet(payload, header & 6, five)
    theirs = decode_publish(header, whole, MQTTProtocolVersion.MQTTv5 if five else MQTTProtocolVersion.MQTTv311)
    arrived, identifier = read_publish(header, whole, five)
    assert (arrived.topic.encode(), bytes(arrived.payload), arrived.retain) == (
        theirs.topic, bytes(theirs.payload), theirs.retain,
    )  # fmt: skip
    assert identifier == theirs.mid


def test_only_what_is_large_and_comes_at_qos_0_is_a_view() -> None:
    def kind(payload: bytes, header: int) -> type:
        return type(read_publish(header, packet(payload, header & 6, True), True)[0].payload)

    assert kind(b"x" * LARGE, 0x30) is memoryview
    assert kind(b"x" * (LARGE - 1), 0x30) is bytes
    assert kind(b"x" * LARGE, 0x32) is bytes


@pytest.mark.parametrize(
    "broken", [b"", b"\x00", b"\x00\x09abc", b"\x00\x01a", b"\x00\x01a\xff\xff\xff\xff\xff", b"\x00\x02\xff\xfe\x00"]
)
def test_a_publish_that_is_cut_off_or_garbled_is_no_publish(broken: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_publish(0x30, bytearray(broken), True)


async def new_client() -> Client:
    return Client("localhost")


@pytest.mark.parametrize("step", ["loop_read", "_packet_queue", "_handle_publish", "_packet_read", "_send_puback"])
def test_paho_still_has_the_steps_that_are_replaced_or_used(step: str) -> None:
    assert callable(getattr(paho.Client, step))


def test_every_client_of_ours_replaces_them_for_itself_alone() -> None:
    import asyncio

    ours = asyncio.run(new_client())._client
    assert {"loop_read", "_packet_queue", "_handle_publish"} <= vars(ours).keys()
    theirs = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert not {"loop_read", "_packet_queue", "_handle_publish"} & vars(theirs).keys()


def test_what_is_left_of_a_packet_is_no_copy() -> None:
    import asyncio

    ours = asyncio.run(new_client())._client
    ours._on_socket_register_write = lambda *_: None
    data = bytearray(b"x" * 100)
    ours._packet_queue(0x30, data, 0, 0)
    queued = ours._out_packet[-1]["packet"]
    assert isinstance(queued, memoryview)
    assert queued[10:].obj is data
