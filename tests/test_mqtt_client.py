"""Our client reads and writes publishes as paho does, copies nothing that is large, and lets JSON overtake binary."""

import asyncio
import contextlib
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from brokers import write_certificates
from paho.mqtt import client as paho
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MalformedPacket

from broker import paho_steps
from broker.address import parse_broker
from broker.dialing import secure
from broker.mqtt_client import MqttClient
from broker.packet_reader import Packet
from broker.packet_socket import MAX_BUFFERS, MAX_READS, PacketSocket
from broker.publish_packet import MIN_VIEW_BYTES, Arrived, publish_packet, read_publish
from broker.user_properties import UserProperties, variable
from mpsl.errors import BrokerError
from mpsl.pieces import Pieces
from mpsl.publish import Publish

PAIRS = (("kind", "activation"), ("größe", "½ MB"))


def packet(payload: bytes, qos: int, is_v5: bool, topic: str = "mpsl/v1/größe") -> bytearray:
    name = topic.encode()
    start = struct.pack("!H", len(name)) + name + (struct.pack("!H", 7) if qos else b"")
    return bytearray(start + (UserProperties(PAIRS).pack() if is_v5 else b"") + payload)


@pytest.mark.parametrize("is_v5", [True, False])
@pytest.mark.parametrize("header", [0x30, 0x31, 0x32, 0x33])
@pytest.mark.parametrize("payload", [b"", b"{}", b"x" * MIN_VIEW_BYTES])
def test_a_publish_is_read_as_paho_reads_it(header: int, is_v5: bool, payload: bytes) -> None:
    whole = packet(payload, header & 6, is_v5)
    theirs = decode_publish(header, whole, MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311)
    arrived, identifier = read_publish(Packet(header, memoryview(whole)), is_v5)
    assert (arrived.topic.encode(), bytes(arrived.payload), arrived.retain) == (
        theirs.topic, bytes(theirs.payload), theirs.retain,
    )  # fmt: skip
    assert identifier == theirs.mid


def test_only_what_is_large_and_comes_at_qos_0_is_a_view() -> None:
    def kind(payload: bytes, header: int) -> type:
        return type(read_publish(Packet(header, memoryview(packet(payload, header & 6, True))), True)[0].payload)

    assert kind(b"x" * MIN_VIEW_BYTES, 0x30) is memoryview
    assert kind(b"x" * (MIN_VIEW_BYTES - 1), 0x30) is bytes
    assert kind(b"x" * MIN_VIEW_BYTES, 0x32) is bytes


@pytest.mark.parametrize(
    "broken", [b"", b"\x00", b"\x00\x09abc", b"\x00\x01a", b"\x00\x01a\xff\xff\xff\xff\xff", b"\x00\x02\xff\xfe\x00"]
)
def test_a_publish_that_is_cut_off_or_garbled_is_no_publish(broken: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_publish(Packet(0x30, memoryview(broken)), True)


@dataclass
class Wire:
    """A packet socket and the other end of its connection, without a broker and without paho."""

    socket: PacketSocket
    far: socket.socket
    is_v5: bool
    arrived: list[Arrived]
    control: list[bytes]
    """What was handed to paho,"""
    handed: asyncio.Event
    """and whether anything was."""
    ended: asyncio.Event


def scenario(is_v5: bool, run: Callable[[Wire], Awaitable[None]]) -> None:
    """Run a coroutine with a wire."""

    async def running() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        arrived: list[Arrived] = []
        control: list[bytes] = []
        ended, handed = asyncio.Event(), asyncio.Event()

        def take() -> None:
            with contextlib.suppress(BlockingIOError):
                while data := wire.socket.recv(1 << 20):
                    control.append(data)
                    handed.set()
                ended.set()

        wire = Wire(PacketSocket(near, is_v5, arrived.append, take), far, is_v5, arrived, control, handed, ended)
        far.setblocking(False)
        try:
            async with asyncio.timeout(30):
                await run(wire)
        finally:
            wire.socket.abort()
            far.close()

    asyncio.run(running())


def framed(header: int, body: bytes) -> bytes:
    return bytes([header]) + variable(len(body)) + body


BOTH = pytest.mark.parametrize("is_v5", [True, False])


@BOTH
@pytest.mark.parametrize("in_pieces", [False, True])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        [0],
        [MIN_VIEW_BYTES - 1],
        [MIN_VIEW_BYTES],
        [3 * MIN_VIEW_BYTES + 1],
        [2 << 20],
        [5, MIN_VIEW_BYTES, 0, 2 * MIN_VIEW_BYTES, MIN_VIEW_BYTES - 1],
        [MIN_VIEW_BYTES] * MAX_BUFFERS,
    ],
    ids=lambda sizes: f"{len(sizes)}x{sizes[0]}",
)
def test_publishes_leave_as_paho_would_send_them(sizes: list[int], retain: bool, in_pieces: bool, is_v5: bool) -> None:
    theirs: Any = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5 if is_v5 else paho.MQTTv311)
    theirs._sock = object()
    theirs.on_socket_register_write = lambda *_: None
    ours, expected = [], b""
    for number, size in enumerate(sizes):
        payload = random.Random(number).randbytes(size)
        pairs = PAIRS if is_v5 and number % 2 == 0 else ()
        content = Pieces((payload[:5], payload[5:70], payload[70:]), len(payload)) if in_pieces else payload
        ours.append(publish_packet(Publish(f"mpsl/v1/{number}", content, 0, retain, pairs), is_v5))
        properties = UserProperties(pairs) if pairs else None
        theirs._send_publish(
            1, f"mpsl/v1/{number}".encode(), payload, 0, retain, False, paho.MQTTMessageInfo(1), properties
        )
        expected += bytes(theirs._out_packet.pop()["packet"])
    theirs._sock = None

    async def run(wire: Wire) -> None:
        received = bytearray()
        wire.socket.put(ours)
        draining = asyncio.create_task(wire.socket.drained(30))
        while len(received) < len(expected):
            received += await asyncio.get_running_loop().sock_recv(wire.far, 1 << 20)
        await draining
        assert bytes(received) == expected

    scenario(is_v5, run)


def test_what_paho_sends_overtakes_publishes_that_are_not_begun() -> None:
    """A JSON publish waits for the end of the packet that is under way, not for all that is queued."""
    sizes = [4 << 20, 1 << 20, 1 << 20]

    async def run(wire: Wire) -> None:
        packets = [publish_packet(Publish(f"t/{n}", bytes(size)), True) for n, size in enumerate(sizes)]
        length = [sum(map(len, packet)) for packet in packets]
        wire.socket.put(packets)
        wire.socket.send(b"<first>")
        wire.socket.send(b"<second>")
        received = bytearray()
        while len(received) < sum(length) + 15:
            received += await asyncio.get_running_loop().sock_recv(wire.far, 1 << 20)
        assert bytes(received[length[0] :][:15]) == b"<first><second>"
        assert received.count(b"<") == 2

    scenario(True, run)


def test_publishes_that_nobody_takes_wait_and_time_out() -> None:
    async def run(wire: Wire) -> None:
        wire.socket.put([publish_packet(Publish("t", b"small"), True)])
        await wire.socket.drained(0.0)
        wire.socket.put([publish_packet(Publish("t", bytes(8 << 20)), True)])
        with pytest.raises(TimeoutError):
            await wire.socket.drained(0.05)
        wire.far.close()
        await wire.socket.drained(10)
        assert isinstance(wire.socket.error, OSError)
        assert wire.socket.fileno() == -1
        await wire.ended.wait()
        with pytest.raises(OSError, match="closed"):
            wire.socket.send(b"late")

    scenario(True, run)


def test_what_was_queued_leaves_before_it_closes() -> None:
    async def run(wire: Wire) -> None:
        wire.socket.put([publish_packet(Publish("t", bytes(4 << 20)), True)])
        wire.socket.send(b"<goodbye>")
        wire.socket.close()
        closing = asyncio.create_task(wire.socket.closed(20))
        received = bytearray()
        while data := await asyncio.get_running_loop().sock_recv(wire.far, 1 << 20):
            received += data
        await closing
        assert received.endswith(b"<goodbye>")
        assert wire.socket.fileno() == -1

    scenario(True, run)


@BOTH
@pytest.mark.parametrize("size", [0, 10, MIN_VIEW_BYTES, 3 * MIN_VIEW_BYTES + 1, 1 << 20])
def test_what_comes_in_pieces_arrives_whole(size: int, is_v5: bool) -> None:
    payload = bytes(index % 251 for index in range(size))

    async def run(wire: Wire) -> None:
        whole = framed(0x30, bytes(packet(payload, 0, is_v5))) + b"\xd0\x00"
        for start in range(0, len(whole), 1 << 16):
            await asyncio.get_running_loop().sock_sendall(wire.far, whole[start : start + (1 << 16)])
        await wire.handed.wait()
        (arrived,) = wire.arrived
        assert (arrived.topic, bytes(arrived.payload)) == ("mpsl/v1/größe", payload)
        assert wire.control == [b"\xd0\x00"], "what is no publish is paho's"
        assert wire.socket.received_bytes == len(whole)

    scenario(is_v5, run)


@BOTH
def test_what_the_socket_will_not_announce_again_is_read_in_the_same_turn(is_v5: bool) -> None:
    async def run(wire: Wire) -> None:
        wire.far.send(4 * MAX_READS * framed(0x30, bytes(packet(b"{}", 0, is_v5))))
        wire.socket._readable()
        assert len(wire.arrived) == 4 * MAX_READS

    scenario(is_v5, run)


def test_what_has_been_decrypted_is_read_in_the_same_turn(tmp_path: Path) -> None:
    """The last record of TLS holds the end of a packet and all of the next: the socket has no more to announce."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca = write_certificates(tmp_path)
    serving.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    trusting = ssl.create_default_context(cafile=str(ca))
    large = framed(0x30, bytes(packet(bytes(MIN_VIEW_BYTES + 100), 0, True)))
    small = framed(0x30, bytes(packet(b"", 0, True)))

    def serve(far: socket.socket) -> ssl.SSLSocket:
        far.settimeout(10)
        near = serving.wrap_socket(far, server_side=True)
        near.sendall(MAX_READS * large + small)
        return near

    async def run() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(serve, far)
            secured = await secure(near, trusting, "localhost")
            arrived: asyncio.Queue[Arrived] = asyncio.Queue()
            packets = PacketSocket(secured, True, arrived.put_nowait, lambda: None)
            async with asyncio.timeout(10):
                for _ in range(MAX_READS + 1):
                    await arrived.get()
            packets.abort()
            served.result(10).close()

    asyncio.run(run())


@BOTH
def test_a_publish_at_qos_1_is_acknowledged(is_v5: bool) -> None:
    async def run(wire: Wire) -> None:
        wire.far.send(framed(0x32, bytes(packet(b"{}", 1, is_v5))))
        assert await asyncio.get_running_loop().sock_recv(wire.far, 10) == b"\x40\x02\x00\x07"

    scenario(is_v5, run)


@pytest.mark.parametrize("broken", [b"\x30\xff\xff\xff\xff\x01", b"\x30\x01a"])
def test_what_is_no_publish_ends_the_connection(broken: bytes) -> None:
    async def run(wire: Wire) -> None:
        wire.far.send(broken)
        await wire.ended.wait()
        assert isinstance(wire.socket.error, MalformedPacket)
        assert wire.socket.fileno() == -1

    scenario(True, run)


def test_a_connection_that_ends_within_a_packet_is_lost() -> None:
    async def run(wire: Wire) -> None:
        wire.far.send(framed(0x30, bytes(4 * MIN_VIEW_BYTES))[:MIN_VIEW_BYTES])
        wire.far.close()
        await wire.ended.wait()
        assert isinstance(wire.socket.error, EOFError)

    scenario(True, run)


def test_the_installed_paho_is_the_verified_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this fails after an update: read the changed steps, run the tests, and add the new digest."""
    assert paho_steps.unverified() is None
    monkeypatch.setattr(paho_steps, "VERIFIED", {"2.2.0": "another"})
    assert "drives its socket differently from 2.2.0" in str(paho_steps.unverified())
    monkeypatch.setattr(paho_steps, "STEPS", (*paho_steps.STEPS, "_gone"))
    assert "has no _gone" in str(paho_steps.unverified())


class Answering(MqttClient):
    """A client that is not connected; `heard` says what it has received whenever it is asked."""

    def __init__(self, heard: list[int]) -> None:
        super().__init__(parse_broker("mqtt://127.0.0.1:1"), "t")
        self.heard = heard

    @property
    def received_bytes(self) -> int:
        return self.heard.pop(0)


@pytest.mark.parametrize("heard", [[0, 0], [0, 5, 5], [0, 5, 9, 9]])
def test_an_answer_is_waited_for_as_long_as_anything_comes(monkeypatch: pytest.MonkeyPatch, heard: list[int]) -> None:
    """Behind a slow link it stands behind megabytes; a broker that says nothing at all is given up in time."""
    monkeypatch.setattr("broker.mqtt_client.ANSWER_S", 0.01)

    async def ask() -> None:
        client = Answering(heard)
        with pytest.raises(BrokerError, match="no answer to the publish from the broker for"):
            await client._answered(MQTTErrorCode.MQTT_ERR_SUCCESS, 1, "the publish")
        assert client.heard == []
        assert not client._answers

    asyncio.run(ask())


def test_an_answer_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.mqtt_client.ANSWER_S", 0.01)
    monkeypatch.setattr("broker.mqtt_client.MAX_ANSWER_S", 0.05)

    async def ask() -> None:
        with pytest.raises(BrokerError, match="no answer"):
            await Answering(list(range(1000)))._answered(MQTTErrorCode.MQTT_ERR_SUCCESS, 1, "the publish")

    asyncio.run(ask())


def test_an_answer_that_comes_is_returned() -> None:
    async def ask() -> None:
        client = Answering([0])
        asyncio.get_running_loop().call_soon(client._answer, 7, "granted")
        assert await client._answered(MQTTErrorCode.MQTT_ERR_SUCCESS, 7, "the subscription") == "granted"

    asyncio.run(ask())
