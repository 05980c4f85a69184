"""The packet reader: packets come out as they went in, however the socket cuts them, and nothing that came is left."""

import mmap
import random
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.properties import VariableByteIntegers

from broker.packet_reader import READ_AHEAD_BYTES, Packet, PacketReader


class Source:
    """Gives what it was fed, at most `most` bytes at a time; nothing for now where it is empty, 0 where it ended."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.waiting: deque[int] = deque()
        self.most = most
        self.calls = 0
        self.ended = False

    def feed(self, data: bytes) -> None:
        self.waiting.extend(data)

    def receive(self, room: memoryview) -> int:
        self.calls += 1
        assert len(room) > 0, "an empty read looks like the end"
        size = min(len(room), self.most, len(self.waiting))
        if not size and not self.ended:
            raise BlockingIOError
        room[:size] = bytes(self.waiting.popleft() for _ in range(size))
        return size


def packed(header: int, body: bytes) -> bytes:
    return bytes([header]) + bytes(VariableByteIntegers.encode(len(body))) + body


def read_all(reader: PacketReader) -> list[tuple[int, bytes]]:
    found = []
    while True:
        try:
            packet = reader.next()
        except BlockingIOError:
            return found
        found.append((packet.header, bytes(packet.body)))


PACKETS = st.lists(
    st.tuples(
        st.integers(0x10, 0xFF),
        st.one_of(
            st.integers(0, 300),
            st.sampled_from(
                [
                    127,
                    128,
                    READ_AHEAD_BYTES - 3,
                    READ_AHEAD_BYTES - 2,
                    READ_AHEAD_BYTES,
                    READ_AHEAD_BYTES + 1,
                    3 * READ_AHEAD_BYTES,
                ]
            ),
        ),
    ),
    max_size=6,
)


@given(PACKETS, st.integers(1, 2 * READ_AHEAD_BYTES), st.integers(0, 10**6))
def test_packets_come_out_as_they_went_in(packets: list[tuple[int, int]], most: int, seed: int) -> None:
    bodies = random.Random(seed)
    wanted = [(header, bodies.randbytes(size)) for header, size in packets]
    source = Source(most)
    reader = PacketReader(source.receive)
    whole = b"".join(packed(header, body) for header, body in wanted)
    cut = bodies.randint(0, len(whole))
    source.feed(whole[:cut])
    found = read_all(reader)
    source.feed(whole[cut:])
    found += read_all(reader)
    assert found == wanted
    assert not reader.ahead


def test_many_small_packets_cost_one_call_and_all_are_ahead_until_they_are_taken() -> None:
    source = Source()
    source.feed(b"".join(packed(0x30, bytes([number])) for number in range(50)))
    reader = PacketReader(source.receive)
    for number in range(50):
        assert bytes(reader.next().body) == bytes([number])
        assert reader.ahead == (number < 49), "the socket does not announce again what has been received"
    assert source.calls == 1


def test_the_rest_of_a_large_packet_goes_where_it_stays_and_no_further() -> None:
    body = random.Random(1).randbytes(10 * READ_AHEAD_BYTES)
    source = Source()
    source.feed(packed(0x30, body) + packed(0x30, b"next"))
    reader = PacketReader(source.receive)
    first = reader.next()
    assert source.calls == 2
    assert not reader.ahead
    second = reader.next()
    assert (bytes(first.body), bytes(second.body)) == (body, b"next"), "memory of a packet is never used again"


def test_a_packet_that_is_not_whole_is_gone_on_with() -> None:
    source = Source()
    reader = PacketReader(source.receive)
    for byte in packed(0x30, bytes(200))[:-1]:
        source.feed(bytes([byte]))
        with pytest.raises(BlockingIOError):
            reader.next()
    source.feed(b"\x07")
    assert reader.next() == Packet(0x30, memoryview(bytes(199) + b"\x07"))


@pytest.mark.parametrize(
    "start", [b"", b"\x30", b"\x30\x80", b"\x30\x05ab", b"\x30" + b"\xff\xff\x03" + bytes(READ_AHEAD_BYTES)]
)
def test_an_end_within_a_packet_or_before_one_is_told(start: bytes) -> None:
    source = Source()
    source.feed(start)
    source.ended = True
    with pytest.raises(EOFError):
        PacketReader(source.receive).next()


def test_a_length_that_never_ends_is_malformed() -> None:
    source = Source()
    source.feed(b"\x30\xff\xff\xff\xff\x01")
    with pytest.raises(MalformedPacket):
        PacketReader(source.receive).next()


def test_the_largest_packet_of_the_protocol_costs_nothing_before_it_comes() -> None:
    source = Source()
    source.feed(b"\x30\xff\xff\xff\x7fab")
    reader = PacketReader(source.receive)
    before = resident()
    with pytest.raises(BlockingIOError):
        reader.next()
    assert resident() - before < 50e6


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
