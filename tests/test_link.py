"""The link over a pipe that loses, doubles, delays and reorders, in virtual time: all arrives once, in order, whole."""

import itertools
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from links import Network, Pair, activation, fault, header_of

from mpsl import wire
from mpsl.link import chunk
from mpsl.link.channel import Limits
from mpsl.link.chunk import Ack, ChunkHeader
from mpsl.link.receiver import ACK_DELAY_S, Receiver, aligned_buffer
from mpsl.link.sender import FIRST_RETRY_S, HEADER_ALLOWANCE, MAX_RETRY_S, Sender
from mpsl.messages import Activation
from mpsl.nn import weights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.3]),
    double=st.sampled_from([0.0, 0.3]),
    latest_s=st.sampled_from([0.01, 1.0, 5.0]),
    chunk_bytes=st.sampled_from([300, 700, 4096]),
    window=st.sampled_from([500, 4096, 100_000]),
    sizes=st.lists(st.integers(0, 6000), max_size=12),
)
def test_everything_arrives_once_in_order_and_whole(
    seed: int, loss: float, double: float, latest_s: float, chunk_bytes: int, window: int, sizes: list[int]
) -> None:
    network = Network(seed, loss, double, latest_s)
    limits = Limits(chunk_bytes, window, 10**6, message=20_000)
    a, b = network.join("a", limits), network.join("b", limits)
    data = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    for number, each in enumerate(data):
        network.send("a", "b", activation(number, each))
        network.send("b", "a", fault(number))
    network.run()

    assert a.idle
    assert b.idle
    arrived = [m for _, m in network.received["b"] if isinstance(m, Activation)]
    assert [m.ticket.batch for m in arrived] == list(range(len(data)))
    assert [bytes(m.tensor.planes[0]) for m in arrived] == data
    assert [m for _, m in network.received["a"]] == [fault(number) for number in range(len(data))]
    assert (a.in_flight_bytes, b.in_flight_bytes) == (0, 0)
    assert not a.dropped + b.dropped, "an honest peer gives no cause to drop anything"


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    window=st.integers(1, 3000),
    body=st.integers(1, 500),
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=12),
    loss=st.sampled_from([0.0, 0.4]),
)
def test_the_window_is_never_exceeded(seed: int, window: int, body: int, sizes: list[int], loss: float) -> None:
    """Neither in bytes, from the oldest chunk not acknowledged to the newest, nor in what the receiver holds."""
    chance = random.Random(seed)
    pair = Pair(window, body, limit=2000)
    for size in sizes:
        pair.sender.send([bytes(size)], ())
    lengths: dict[int, int] = {}
    now, arrived = 0.0, 0
    while not pair.sender.idle:
        out = pair.sender.fill(now, 10**9) + pair.sender.retry(now)
        for payload in out:
            lengths[header_of(payload).sequence] = len(payload.payload)
        assert pair.sender.in_flight_bytes <= max(window, body)
        open_sequences = pair.sender._in_flight
        oldest, newest = min(open_sequences), max(open_sequences)
        span = open_sequences[newest].position + open_sequences[newest].length - open_sequences[oldest].position
        assert span <= max(window, body)
        assert newest - oldest < chunk.MAX_AHEAD
        chance.shuffle(out)
        for payload in out:
            if chance.random() >= loss:
                arrived += len(pair.deliver(payload, now))
        assert pair.receiver.held_bytes <= window + 2 * 2000
        if chance.random() < 0.7:
            pair.acknowledge(now)
        now += chance.choice([0.1, 5.0, MAX_RETRY_S])
    assert arrived == len(sizes)


def test_many_small_messages_are_bounded_by_their_number() -> None:
    """A broker queues messages, not bytes: a thousand small ones overflow it as well."""
    pair = Pair(window=10**6, body=500)
    for _ in range(2 * chunk.MAX_AHEAD):
        pair.sender.send([b"x"], ())
    out = pair.sender.fill(0.0, 10**6)
    assert len(out) == chunk.MAX_AHEAD
    assert sum(len(pair.deliver(payload, 0.0)) for payload in out[1:]) == 0
    assert [header_of(p).sequence for p in pair.acknowledge(3.0)] == [0]
    assert pair.sender.fill(3.0, 10**6) == []


def test_more_gaps_than_an_ack_can_name() -> None:
    """What an ack does not name as missing counts as arrived, so it must not reach beyond the gaps that it names."""
    pair = Pair(window=10**6, body=10)
    pair.sender.send([bytes(10 * chunk.MAX_AHEAD)], ())
    out = pair.sender.fill(0.0, 10**6)
    for payload in out[1::2]:
        pair.deliver(payload, 0.0)
    ack = pair.receiver.ack("receiver", 1, "fwd")
    assert len(ack.gaps) == chunk.MAX_GAPS
    assert chunk.decode(chunk.encode_ack(ack)) == ack
    whole = []
    for now in (10.0, 20.0, 30.0):
        for payload in pair.acknowledge(now):
            whole += pair.deliver(payload, now)
    pair.acknowledge(40.0)
    assert pair.sender.idle
    assert [len(each) for each in whole] == [10 * chunk.MAX_AHEAD]


def test_retries_grow_and_end_with_an_ack() -> None:
    pair = Pair(window=400, body=100)
    pair.sender.send([bytes(400)], ())
    first = pair.sender.fill(0.0, 10**6)
    assert len(first) == 4
    times = []
    for _ in range(7):
        at = pair.sender.retry_at
        assert at is not None
        assert pair.sender.retry(at - 0.001) == []
        assert [header_of(p).sequence for p in pair.sender.retry(at)] == [0], "the oldest quarter of the window"
        times.append(at)
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert times[0] == FIRST_RETRY_S
    assert pauses == [min(MAX_RETRY_S, FIRST_RETRY_S * 2**n) for n in range(1, 7)]
    for payload in first:
        pair.deliver(payload, 200.0)
    pair.acknowledge(200.0)
    assert pair.sender.retry_at is None
    assert pair.sender.retry(1000.0) == []


def test_a_missing_chunk_is_sent_again_once_a_round_trip() -> None:
    pair = Pair(window=1000, body=100)
    pair.sender.send([bytes(1000)], ())
    out = pair.sender.fill(0.0, 10**6)
    pair.deliver(out[0], 1.0)
    assert pair.acknowledge(1.0) == []
    pair.deliver(out[2], 1.1)
    assert [header_of(p).sequence for p in pair.acknowledge(1.1)] == [1], "the round trip is 1 s"
    pair.deliver(out[3], 1.2)
    assert pair.acknowledge(1.2) == [], "it is on its way"
    pair.deliver(out[4], 2.5)
    assert [header_of(p).sequence for p in pair.acknowledge(2.5)] == [1]


def test_an_ack_without_news_does_not_put_off_the_retry() -> None:
    pair = Pair(window=1000, body=100)
    pair.sender.send([bytes(200)], ())
    pair.sender.fill(0.0, 10**6)
    for now in (0.5, 1.0, 1.9):
        pair.acknowledge(now)
    assert pair.sender.retry_at == FIRST_RETRY_S


def test_acks_wait_a_little_and_come_at_once_where_it_matters() -> None:
    pair = Pair(window=400, body=50)
    pair.sender.send([bytes(400)], ())
    out = pair.sender.fill(0.0, 10**6)
    pair.deliver(out[0], 1.0)
    assert pair.receiver.ack_at == 1.0 + ACK_DELAY_S
    pair.deliver(out[1], 1.001)
    assert pair.receiver.ack_at == 1.001, "a quarter of the window has arrived"
    pair.acknowledge(1.01)
    assert pair.receiver.ack_at is None
    pair.deliver(out[3], 1.02)
    assert pair.receiver.ack_at == 1.02, "one is missing"
    pair.acknowledge(1.03)
    pair.deliver(out[3], 1.04)
    assert pair.receiver.ack_at == 1.04, "a repeat: our ack was lost"
    assert pair.receiver.duplicates == 1


@pytest.mark.parametrize(
    "ack", [Ack("r", 1, "s", "fwd", 1, 0, 2**60, ((0, 2**60),)), Ack("r", 1, "s", "fwd", 1, 2**60, 2**60, ())]
)
def test_an_ack_of_what_was_never_sent_does_no_harm(ack: Ack) -> None:
    sender = Sender("s", 1, 1, 1000, 500)
    sender.send([bytes(100)], ())
    sender.fill(0.0, 1000)
    tracemalloc.start()
    sender.acknowledge(ack, 0.001)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    sender.send([bytes(100)], ())
    assert len(sender.fill(0.0, 1000)) == 1


def open_messages(receiver: Receiver, size: int) -> None:
    """Begin message after message and end none."""
    body = memoryview(bytes(size // 2))
    for message in range(chunk.MAX_AHEAD):
        receiver.receive(ChunkHeader("s", 1, 1, 1 + message, message, 0, 2, 0, size, size // 2), body, 0.0)


def test_a_receiver_refuses_before_it_allocates() -> None:
    receiver = Receiver("s", 1, window=1000, limit=10**6)
    tracemalloc.start()
    attacks = [
        (ChunkHeader("s", 1, 1, 0, 0, 0, 2, 0, 2 * 10**6, 10**6), "oversized"),
        (ChunkHeader("s", 1, 1, chunk.MAX_AHEAD, 0, 0, 1, 0, 5, 5), "window"),
        (ChunkHeader("s", 1, 1, 1, chunk.MAX_AHEAD, 0, 1, 0, 5, 5), "window"),
    ]
    for header, reason in attacks:
        with pytest.raises(wire.WireError, match=reason):
            receiver.receive(header, memoryview(bytes(header.length)), 0.0)
    with pytest.raises(wire.WireError, match="window"):
        open_messages(receiver, 10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert receiver.held_bytes <= 1000 + 2 * 10**6
    assert peak < 6 * 10**6


@pytest.mark.parametrize(
    ("index", "total", "offset", "size", "length"),
    [
        (0, 3, 0, 30, 10),
        (1, 2, 10, 30, 20),
        (1, 3, 11, 30, 9),
        (1, 3, 10, 31, 10),
        (2, 3, 19, 30, 11),
        (1, 3, 10, 30, 9),
    ],
)
def test_contradicting_chunks_are_refused(index: int, total: int, offset: int, size: int, length: int) -> None:
    """Neighbours touch, so that a whole message has no byte that no chunk brought; here 0 and 2 of 3 are known."""
    receiver = Receiver("s", 1, window=1000, limit=1000)
    known = (1, 3, 10, 30, 10) if index == 2 else (2, 3, 20, 30, 10)
    for sequence, form in enumerate([(0, 3, 0, 30, 10), known]):
        receiver.receive(ChunkHeader("s", 1, 1, sequence, 0, *form), memoryview(bytes(form[-1])), 0.0)
    with pytest.raises(wire.WireError, match="contradicts"):
        receiver.receive(
            ChunkHeader("s", 1, 1, 2, 0, index, total, offset, size, length), memoryview(bytes(length)), 0.0
        )


@given(st.integers(0, 5000))
def test_buffers_are_aligned(size: int) -> None:
    buffer = aligned_buffer(size)
    assert buffer.nbytes == size
    assert np.frombuffer(buffer, np.uint8).ctypes.data % wire.ALIGNMENT == 0 or size == 0


@pytest.mark.parametrize("megabytes", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_a_large_part_reaches_a_slow_reader_in_bounded_memory(megabytes: int) -> None:
    """Weights as slices over a broker that drops QoS 0 beyond its queue; no more than the windows is ever held."""
    part = [np.zeros(size, np.float32) for size in (megabytes * 230_000, 1000, 3, megabytes * 20_000)]
    for number, array in enumerate(part):
        array[...] = np.arange(array.size, dtype=np.float32) + number
    arrived = [np.zeros_like(array) for array in part]
    limits = Limits(message=12 * 10**5)
    network = Network(loss=0.02, seed=9)
    a, b = network.join("a", limits), network.join("b", limits)

    tracemalloc.start()
    base, _ = tracemalloc.get_traced_memory()
    for message in weights.slices(part, "global", 1, 0, 2, limits.chunk_bytes):
        network.send("a", "b", message)
    most = 0
    while not a.idle:
        network.step()
        for _, message in network.received["b"]:
            weights.write(arrived, message)  # type: ignore[arg-type]
        network.received["b"].clear()
        most = max(most, a.in_flight_bytes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= limits.window
    assert peak - base <= 3 * limits.window + megabytes * 10_000
    for sent, got in zip(part, arrived, strict=True):
        assert np.array_equal(sent, got)
    assert not b.dropped


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 8192, 20_001])
@pytest.mark.parametrize("chunk_bytes", [300, 4096, 4400, 9000])
def test_a_message_is_cut_in_equal_chunks_and_only_the_first_carries_the_label(size: int, chunk_bytes: int) -> None:
    sender = Sender("s", 1, 1, 1 << 20, chunk_bytes)
    sender.send([bytes(size)], (("kind", "slice"),))
    payloads = sender.fill(0.0, 1 << 20)
    assert [bool(payload.properties) for payload in payloads] == [True] + [False] * (len(payloads) - 1)
    bodies = [
        decoded[1].nbytes for payload in payloads if isinstance(decoded := chunk.decode(bytes(payload.payload)), tuple)
    ]
    assert sum(bodies) == size
    assert set(bodies[:-1]) <= {chunk_bytes - HEADER_ALLOWANCE}
    assert len(bodies) == -(-size // (chunk_bytes - HEADER_ALLOWANCE))
