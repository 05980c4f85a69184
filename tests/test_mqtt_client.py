"""Our client reads a publish as paho does, copies nothing that is large, and hangs on steps that paho still has."""

import asyncio
import random
import select
import socket
import ssl
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from brokers import write_certificates
from paho.mqtt import client as paho
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket

from broker.mqtt_client import LARGE, MAX_PARTS, MAX_READS, Arrived, Client, Parts, Unacknowledged, read_publish
from broker.packet_reader import Packet
from broker.user_properties import UserProperties
from mpsl.pieces import Pieces

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
    arrived, identifier = read_publish(Packet(header, memoryview(whole)), five)
    assert (arrived.topic.encode(), bytes(arrived.payload), arrived.retain) == (
        theirs.topic, bytes(theirs.payload), theirs.retain,
    )  # fmt: skip
    assert identifier == theirs.mid


def test_only_what_is_large_and_comes_at_qos_0_is_a_view() -> None:
    def kind(payload: bytes, header: int) -> type:
        return type(read_publish(Packet(header, memoryview(packet(payload, header & 6, True))), True)[0].payload)

    assert kind(b"x" * LARGE, 0x30) is memoryview
    assert kind(b"x" * (LARGE - 1), 0x30) is bytes
    assert kind(b"x" * LARGE, 0x32) is bytes


@pytest.mark.parametrize(
    "broken", [b"", b"\x00", b"\x00\x09abc", b"\x00\x01a", b"\x00\x01a\xff\xff\xff\xff\xff", b"\x00\x02\xff\xfe\x00"]
)
def test_a_publish_that_is_cut_off_or_garbled_is_no_publish(broken: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_publish(Packet(0x30, memoryview(broken)), True)


async def new_client() -> Client:
    return Client("localhost")


STEPS = {"loop_read", "_packet_queue", "_sock_send"}
USED = {"_packet_handle", "_loop_rc_handle", "_send_puback", "_call_socket_register_write"}


@pytest.mark.parametrize("step", sorted(STEPS | USED))
def test_paho_still_has_the_steps_that_are_replaced_or_used(step: str) -> None:
    assert callable(getattr(paho.Client, step))


def test_every_client_of_ours_replaces_them_for_itself_alone() -> None:
    ours = asyncio.run(new_client())._client
    assert vars(ours).keys() >= STEPS
    theirs = paho.Client(paho.CallbackAPIVersion.VERSION2)
    assert not STEPS & vars(theirs).keys()


def test_what_is_left_of_a_packet_is_no_copy() -> None:
    ours = asyncio.run(new_client())._client
    ours._on_socket_register_write = lambda *_: None
    data = bytearray(b"x" * 100)
    ours._packet_queue(0x30, data, 0, 0)
    queued = ours._out_packet[-1]["packet"]
    assert isinstance(queued, memoryview)
    assert queued[10:].obj is data


def test_what_is_left_of_parts_is_what_is_left_of_their_bytes() -> None:
    parts = Parts([memoryview(b"head"), memoryview(b""), memoryview(b"payload")])
    whole = b"headpayload"
    assert len(parts) == len(whole)
    for position in range(len(whole) + 1):
        left = parts[position:]
        assert b"".join(left.parts) == whole[position:]
        assert len(left) == len(whole) - position
        assert all(left.parts[:1]), "an empty part in front would be a call of the system for nothing"


@dataclass
class Wire:
    """A client of ours and the other end of its connection, without a broker."""

    client: Client
    far: socket.socket

    @property
    def inner(self) -> Any:
        return self.client._client

    def arrived(self) -> list[Arrived]:
        """What the client has handed on so far."""
        queue: Any = self.client._queue
        return [queue.get_nowait() for _ in range(queue.qsize())]


@pytest.fixture(params=[paho.MQTTv5, paho.MQTTv311])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    whole = asyncio.run(new_client())
    inner: Any = whole._client
    inner._protocol = request.param
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.settimeout(10)
        inner._sock = near
        inner._on_socket_register_write = lambda *_: None
        inner._call_socket_register_write = lambda: None
        yield Wire(whole, far)


def plain(payload: bytes) -> Unacknowledged:
    return Unacknowledged("t", payload, False, None)


def test_a_publish_that_nobody_takes_waits_and_one_on_a_lost_connection_raises() -> None:
    async def scenario() -> None:
        client = Client("localhost")
        inner: Any = client._client
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            inner._sock = near
            await asyncio.wait_for(client.publish_at_once([plain(b"small")], 10.0), 10)
            with pytest.raises(aiomqtt.MqttError, match="timed out"):
                await client.publish_at_once([plain(bytes(8 << 20))], 0.05)
            waiting = asyncio.create_task(client.publish_at_once([plain(b"next")], 10.0))
            await asyncio.sleep(0)
            assert not waiting.done()
            client._connected.set_result(None)
            client._on_disconnect(inner, None, None, paho.MQTT_ERR_CONN_LOST)
            with pytest.raises(aiomqtt.MqttError, match="while a message"):
                await asyncio.wait_for(waiting, 10)
            client._disconnected.exception()
            inner._sock = None
            with pytest.raises(aiomqtt.MqttError):
                await client.publish_at_once([plain(b"late")], 10.0)

    asyncio.run(scenario())


@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [[0], [LARGE - 1], [LARGE], [3 * LARGE + 1], [2 << 20], [5, LARGE, 0, 2 * LARGE, LARGE - 1], [LARGE] * MAX_PARTS],
    ids=lambda sizes: f"{len(sizes)}x{sizes[0]}",
)
def test_publishes_leave_as_paho_would_send_them(wire: Wire, sizes: list[int], retain: bool, in_pieces: bool) -> None:
    five = wire.inner._protocol == paho.MQTTv5
    theirs = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=wire.inner._protocol)
    theirs._sock = wire.inner._sock
    theirs._on_socket_register_write = wire.inner._on_socket_register_write
    ours, expected = [], b""
    for number, size in enumerate(sizes):
        payload = random.Random(number).randbytes(size)
        properties = UserProperties(PAIRS) if five and number % 2 == 0 else None
        content = Pieces((payload[:5], payload[5:70], payload[70:]), len(payload)) if in_pieces else payload
        ours.append(Unacknowledged(f"mpsl/v1/{number}", content, retain, properties))
        theirs._send_publish(
            1, f"mpsl/v1/{number}".encode(), payload, 0, retain, False, paho.MQTTMessageInfo(1), properties
        )
        expected += bytes(theirs._out_packet.pop()["packet"])

    async def send() -> None:
        client = Client("localhost", protocol=aiomqtt.ProtocolVersion(wire.inner._protocol))
        inner: Any = client._client
        inner._sock = wire.inner._sock
        client._connected.set_result(None)
        await client.publish_at_once(ours, 30.0)

    received = bytearray()

    def receive() -> None:
        while len(received) < len(expected):
            received.extend(wire.far.recv(1 << 20))

    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(receive)
        asyncio.run(send())
        receiving.result(30)
    assert bytes(received) == expected


@pytest.mark.parametrize("size", [0, 10, LARGE, 3 * LARGE + 1, 1 << 20])
def test_what_comes_in_pieces_arrives_whole(wire: Wire, size: int) -> None:
    five = wire.inner._protocol == paho.MQTTv5
    payload = bytes(index % 251 for index in range(size))
    body = bytes(packet(payload, 0, five))
    head = bytearray([0x30])
    wire.inner._pack_remaining_length(head, len(body))
    left = memoryview(bytes(head) + body + b"\xd0\x00")
    wire.inner._ping_t = 1.0
    while left or wire.inner._ping_t:
        left = left[wire.far.send(left[: 1 << 16]) :]
        assert wire.inner.loop_read() == paho.MQTT_ERR_SUCCESS
    (arrived,) = wire.arrived()
    assert (arrived.topic, bytes(arrived.payload)) == ("mpsl/v1/größe", payload)


def test_what_the_socket_will_not_announce_again_is_read_in_the_same_turn(wire: Wire) -> None:
    body = bytes(packet(b"{}", 0, wire.inner._protocol == paho.MQTTv5))
    wire.far.send(4 * MAX_READS * (bytes([0x30, len(body)]) + body))
    wire.inner.loop_read()
    assert len(wire.arrived()) == 4 * MAX_READS


def test_what_has_been_decrypted_is_read_in_the_same_turn(wire: Wire, tmp_path: Path) -> None:
    """The last record of TLS holds the end of a packet and all of the next: the socket has no more to announce."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca = write_certificates(tmp_path)
    serving.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    trusting = ssl.create_default_context(cafile=str(ca))
    body = bytes(packet(bytes(LARGE + 100), 0, wire.inner._protocol == paho.MQTTv5))
    head = bytearray([0x30])
    wire.inner._pack_remaining_length(head, len(body))
    small = bytes(packet(b"", 0, wire.inner._protocol == paho.MQTTv5))

    def serve() -> ssl.SSLSocket:
        near = serving.wrap_socket(wire.far, server_side=True)
        near.sendall(MAX_READS * (bytes(head) + body) + bytes([0x30, len(small)]) + small)
        return near

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve)
        wire.inner._sock.settimeout(10)
        with trusting.wrap_socket(wire.inner._sock, server_hostname="localhost") as near:
            wire.inner._sock = near
            near.setblocking(False)
            arrived = 0
            while arrived < MAX_READS + 1:
                assert select.select([near], [], [], 10)[0], f"{arrived} have arrived, and the rest is not announced"
                assert wire.inner.loop_read() == paho.MQTT_ERR_SUCCESS
                arrived += len(wire.arrived())
            served.result(10).close()


def test_a_publish_at_qos_1_is_acknowledged(wire: Wire) -> None:
    body = bytes(packet(b"{}", 1, wire.inner._protocol == paho.MQTTv5))
    wire.far.send(bytes([0x32, len(body)]) + body)
    wire.inner.loop_read()
    wire.inner.loop_write()
    assert wire.far.recv(10)[:4] == b"\x40\x02\x00\x07"


def test_bytes_that_come_slowly_keep_the_connection_alive(wire: Wire) -> None:
    wire.inner._last_bytes_received = 0.0
    wire.far.send(b"\x30\xff\xff\x03")
    wire.inner.loop_read()
    assert wire.inner._last_bytes_received > 0.0


@pytest.mark.parametrize("broken", [b"\x30\xff\xff\xff\xff\x01", b"\x30\x01a", b"\xf0\x00"])
def test_what_is_no_mqtt_ends_the_connection(wire: Wire, broken: bytes) -> None:
    wire.far.send(broken)
    assert wire.inner.loop_read() == paho.MQTT_ERR_PROTOCOL
    assert wire.inner._sock is None


def test_a_socket_that_cannot_take_parts_gets_them_one_by_one(wire: Wire) -> None:
    class Plain:
        def send(self, data: memoryview) -> int:
            return wire.far.send(bytes(data))

    near, wire.inner._sock = wire.inner._sock, Plain()
    sent = wire.inner._sock_send(Parts([memoryview(b"head"), memoryview(b"payload")]))
    wire.inner._sock = near
    assert (sent, near.recv(100)) == (4, b"head")


def test_a_connection_that_ends_within_a_packet_is_lost(wire: Wire) -> None:
    head = bytearray([0x30])
    wire.inner._pack_remaining_length(head, 4 * LARGE)
    wire.far.send(bytes(head) + bytes(LARGE))
    assert wire.inner.loop_read() == paho.MQTT_ERR_SUCCESS
    wire.far.close()
    assert wire.inner.loop_read() == paho.MQTT_ERR_CONN_LOST
