"""The link over a pipe that loses, doubles, delays and reorders, in virtual time: all arrives once, in order, whole."""

import heapq
import itertools
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsl import wire
from mpsl.link import chunk
from mpsl.link.channel import Channel, Limits, Outbound, Peer
from mpsl.link.chunk import Ack, ChunkHeader
from mpsl.link.receiver import ACK_DELAY_S, Receiver, aligned_buffer
from mpsl.link.sender import FIRST_RETRY_S, HEADER_ALLOWANCE, LONGEST_RETRY_S, Payload, Sender
from mpsl.messages import Activation, Admit, Commit, Discarded, Fault, Message, Tensor, Ticket
from mpsl.nn import weights
from mpsl.topics import BinaryTopic, Topics

TOPICS = Topics("main")
KEYS = {
    "ack", "boot", "chunk", "fields", "foreign", "header", "kind", "lane", "oversized", "protocol", "session",
    "stranger", "tensor", "term", "truncated", "type", "window",
}  # fmt: skip
"""All that `Channel.dropped` may count under."""


class Network:
    """Channels joined by a pipe in virtual time; each publish may be lost, doubled or late, as `chance` says."""

    def __init__(self, seed: int = 0, loss: float = 0.0, double: float = 0.0, latest_s: float = 0.01) -> None:
        self.now = 0.0
        self.channels: dict[str, Channel] = {}
        self.received: dict[str, list[tuple[str, Message]]] = {}
        self.published = 0
        self._chance = random.Random(seed)
        self._loss, self._double, self._latest_s = loss, double, latest_s
        self._pipe: list[tuple[float, int, Outbound]] = []
        self._order = itertools.count()

    def join(self, id: str, limits: Limits, boot: str = "", term: int = 1) -> Channel:
        """A channel under `id`; everybody knows everybody."""
        channel = Channel(TOPICS, "run-1", id, boot or f"boot-{id}", term, limits)
        self.channels[id] = channel
        self.received.setdefault(id, [])
        peers = {other: Peer(each._boot, other) for other, each in self.channels.items()}
        for each in self.channels.values():
            each.know(peers)
        return channel

    def send(self, source: str, to: str, message: Message) -> None:
        self.publish(self.channels[source].send(to, message, self.now))

    def publish(self, outbound: list[Outbound]) -> None:
        for each in outbound:
            self.published += 1
            times = 0 if self._chance.random() < self._loss else 1 + (self._chance.random() < self._double)
            for _ in range(times):
                at = self.now + self._chance.uniform(0.001, self._latest_s)
                heapq.heappush(self._pipe, (at, next(self._order), each))

    def step(self) -> bool:
        """The next publish that arrives, or the next timer; False when nothing is left to happen."""
        due = min((at for c in self.channels.values() if (at := c.next_due()) is not None), default=None)
        if self._pipe and (due is None or self._pipe[0][0] <= due):
            self.now, _, outbound = heapq.heappop(self._pipe)
            topic = TOPICS.parse(outbound.topic)
            assert isinstance(topic, BinaryTopic)
            messages, answer = self.channels[topic.to].receive(topic, bytes(outbound.payload), self.now)
            self.received[topic.to] += [(topic.source, message) for message in messages]
            self.publish(answer)
            return True
        if due is None:
            return False
        self.now = max(self.now, due)
        for channel in self.channels.values():
            self.publish(channel.due(self.now))
        return True

    def run(self, steps: int = 200_000) -> None:
        """Until nothing is left to happen."""
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError(f"still busy after {steps} steps at {self.now:.1f} s")


def fault(number: int, size: int = 0) -> Fault:
    return Fault(f"{number}:" + "x" * size)


def activation(number: int, data: bytes) -> Activation:
    ticket = Ticket(1, 1, "dev-1", 1, 0, number, 0, 1)
    return Activation(ticket, Tensor("fp32", "uint8", (len(data),), (memoryview(data),)))


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


class Pair:
    """A sender and a receiver without a channel between them, for what the two do alone."""

    def __init__(self, window: int, body: int, limit: int = 10**6) -> None:
        self.sender = Sender("sender", 1, 1, window, body + HEADER_ALLOWANCE)
        self.receiver = Receiver("sender", 1, window, limit)

    def deliver(self, payload: Payload, now: float) -> list[wire.Buffer]:
        decoded = chunk.decode(bytes(payload.data))
        assert isinstance(decoded, tuple)
        return self.receiver.receive(*decoded, now)

    def acknowledge(self, now: float) -> list[Payload]:
        return self.sender.acknowledge(self.receiver.ack("receiver", 1, "fwd"), now)


def header_of(payload: Payload) -> ChunkHeader:
    decoded = chunk.decode(bytes(payload.data))
    assert isinstance(decoded, tuple)
    return decoded[0]


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
            lengths[header_of(payload).sequence] = len(payload.data)
        assert pair.sender.in_flight_bytes <= max(window, body)
        open_sequences = pair.sender._in_flight
        oldest, newest = min(open_sequences), max(open_sequences)
        span = open_sequences[newest].position + open_sequences[newest].length - open_sequences[oldest].position
        assert span <= max(window, body)
        assert newest - oldest < chunk.MOST_AHEAD
        chance.shuffle(out)
        for payload in out:
            if chance.random() >= loss:
                arrived += len(pair.deliver(payload, now))
        assert pair.receiver.held_bytes <= window + 2 * 2000
        if chance.random() < 0.7:
            pair.acknowledge(now)
        now += chance.choice([0.1, 5.0, LONGEST_RETRY_S])
    assert arrived == len(sizes)


def test_many_small_messages_are_bounded_by_their_number() -> None:
    """A broker queues messages, not bytes: a thousand small ones overflow it as well."""
    pair = Pair(window=10**6, body=500)
    for _ in range(2 * chunk.MOST_AHEAD):
        pair.sender.send([b"x"], ())
    out = pair.sender.fill(0.0, 10**6)
    assert len(out) == chunk.MOST_AHEAD
    assert sum(len(pair.deliver(payload, 0.0)) for payload in out[1:]) == 0
    assert [header_of(p).sequence for p in pair.acknowledge(3.0)] == [0]
    assert pair.sender.fill(3.0, 10**6) == []


def test_more_gaps_than_an_ack_can_name() -> None:
    """What an ack does not name as missing counts as arrived, so it must not reach beyond the gaps that it names."""
    pair = Pair(window=10**6, body=10)
    pair.sender.send([bytes(10 * chunk.MOST_AHEAD)], ())
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
    assert [len(each) for each in whole] == [10 * chunk.MOST_AHEAD]


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
    assert pauses == [min(LONGEST_RETRY_S, FIRST_RETRY_S * 2**n) for n in range(1, 7)]
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
    for message in range(chunk.MOST_AHEAD):
        receiver.receive(ChunkHeader("s", 1, 1, 1 + message, message, 0, 2, 0, size, size // 2), body, 0.0)


def test_a_receiver_refuses_before_it_allocates() -> None:
    receiver = Receiver("s", 1, window=1000, limit=10**6)
    tracemalloc.start()
    attacks = [
        (ChunkHeader("s", 1, 1, 0, 0, 0, 2, 0, 2 * 10**6, 10**6), "oversized"),
        (ChunkHeader("s", 1, 1, chunk.MOST_AHEAD, 0, 0, 1, 0, 5, 5), "window"),
        (ChunkHeader("s", 1, 1, 1, chunk.MOST_AHEAD, 0, 1, 0, 5, 5), "window"),
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


def limits(**changed: int) -> Limits:
    return Limits(**({"chunk_bytes": 1256, "window": 10_000, "in_flight": 40_000, "message": 10**6} | changed))


def publishes(outbound: list[Outbound]) -> list[tuple[BinaryTopic, bytes]]:
    found = []
    for each in outbound:
        topic = TOPICS.parse(each.topic)
        assert isinstance(topic, BinaryTopic)
        found.append((topic, bytes(each.payload)))
    return found


def test_only_the_planned_boot_counts() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(to_b, payload)] = publishes(a.send("b", fault(1), 0.0))
    b.know({"a": Peer("another", "a")})
    assert b.receive(to_b, payload, 0.0) == ([], [])
    assert b.dropped == Counter({"boot": 1})
    b.know({"a": Peer("boot-a", "a")})
    messages, _ = b.receive(to_b, payload, 0.0)
    assert messages == [fault(1)]

    [(to_a, ack)] = publishes(b.due(1.0))
    a.know({"b": Peer("another", "b")})
    assert not a._senders, "what a former boot left is forgotten"
    a.know({"b": Peer("boot-b", "b")})
    a.send("b", fault(2), 0.0)
    a.receive(to_a, ack, 0.0)
    assert not a.idle, "the ack names a session that is no more"
    assert a.dropped == Counter({"ack": 1})


def test_an_ack_from_an_impostor_does_not_count() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(to_b, payload)] = publishes(a.send("b", fault(1), 0.0))
    b.receive(to_b, payload, 0.0)
    [(to_a, ack)] = publishes(b.due(1.0))
    decoded = chunk.decode(ack)
    assert isinstance(decoded, Ack)
    forged = [
        (Ack(**{**vars(decoded), "boot": "other"}), "boot"),
        (Ack(**{**vars(decoded), "term": 2}), "term"),
        (Ack(**{**vars(decoded), "term": 0}), "term"),
        (Ack(**{**vars(decoded), "to_boot": "other"}), "ack"),
        (Ack(**{**vars(decoded), "session": 9}), "ack"),
        (Ack(**{**vars(decoded), "lane": "weights"}), "ack"),
        (Ack(**{**vars(decoded), "lane": "none"}), "ack"),
    ]
    for each, key in forged:
        a.receive(to_a, chunk.encode_ack(each), 1.0)
        assert a.dropped.pop(key) == 1
        assert not a.idle
    a.receive(BinaryTopic("run-1", "a", "ack", "c"), ack, 1.0)
    assert a.dropped.pop("stranger") == 1
    a.receive(BinaryTopic("run-1", "a", "ctl", "b"), ack, 1.0)
    assert a.dropped.pop("lane") == 1
    a.receive(to_a, ack, 1.0)
    assert a.idle
    assert not a.dropped


@pytest.mark.parametrize("term", [1, 3])
def test_messages_of_another_term_are_dropped_and_counted(term: int) -> None:
    network = Network()
    network.join("a", limits(), term=term)
    network.join("b", limits(), term=2)
    network.send("a", "b", fault(1))
    network.step()
    assert network.received["b"] == []
    assert network.channels["b"].dropped == Counter({"term": 1})
    assert network.channels["b"].next_due() is None, (
        "no ack, so that a newer term's message is sent again after the plan"
    )


def test_a_forgotten_link_begins_anew() -> None:
    """Mid-message, with chunks of the old session still in the pipe: they are dropped, and the new session is whole."""
    network = Network(seed=3, latest_s=3.0)
    a = network.join("a", limits())
    b = network.join("b", limits())
    network.send("a", "b", activation(1, bytes(50_000)))
    for _ in range(4):
        network.step()
    a.forget("b")
    assert a.idle
    assert a.in_flight_bytes == 0
    network.send("a", "b", activation(2, bytes(30_000)))
    network.run()
    assert a.idle
    assert [m.ticket.batch for _, m in network.received["b"] if isinstance(m, Activation)] == [2]
    assert set(a.dropped) <= {"ack"}
    assert set(b.dropped) <= {"session"}


def test_forgetting_drops_nothing_that_comes_from_there() -> None:
    network = Network(loss=0.2, seed=5)
    a, b = network.join("a", limits()), network.join("b", limits())
    for number in range(20):
        network.send("b", "a", fault(number, 500))
        if number % 5 == 0:
            network.step()
            a.forget("b")
    network.run()
    assert b.idle
    assert [m for _, m in network.received["a"]] == [fault(number, 500) for number in range(20)]


def test_another_boot_of_a_peer_starts_from_nothing() -> None:
    network = Network(seed=2)
    network.join("a", limits())
    network.join("b", limits())
    for number in range(5):
        network.send("b", "a", activation(number, bytes(5000)))
        network.send("a", "b", fault(number))
    for _ in range(3):
        network.step()
    before = len(network.received["b"])
    network.join("b", limits(), boot="reborn")
    network.send("b", "a", activation(7, bytes(5000)))
    network.send("a", "b", fault(8))
    network.run()
    assert [m.ticket.batch for _, m in network.received["a"] if isinstance(m, Activation)][-1] == 7
    assert network.received["b"][before:][-1] == ("a", fault(8))
    assert network.channels["a"].idle
    assert set(network.channels["a"].dropped) <= {"boot", "ack"}


def test_a_message_larger_than_the_window() -> None:
    network = Network(loss=0.1, seed=1)
    a = network.join("a", limits(window=3000))
    network.join("b", limits(window=3000))
    data = random.Random(0).randbytes(200_000)
    network.send("a", "b", activation(1, data))
    most = 0
    while network.step():
        most = max(most, a.in_flight_bytes)
    [(_, message)] = network.received["b"]
    assert isinstance(message, Activation)
    assert bytes(message.tensor.planes[0]) == data
    assert most <= 3000


def test_all_links_together_are_bounded() -> None:
    network = Network(seed=4)
    few = limits(in_flight=25_000)
    a = network.join("a", few)
    others = [f"b{number}" for number in range(6)]
    for other in others:
        network.join(other, few)
        network.send("a", other, activation(0, bytes(100_000)))
    most = 0
    while network.step():
        most = max(most, a.in_flight_bytes)
    body = few.chunk_bytes - HEADER_ALLOWANCE
    assert most <= few.in_flight + (len(others) - 1) * body
    assert all(len(network.received[other]) == 1 for other in others)


def test_peers_that_do_not_answer_hold_up_nobody() -> None:
    """As many dead links as fill the whole allowance; a discard and an activation to the living get through at once."""
    network = Network()
    a = network.join("a", limits())
    network.join("living", limits())
    a.know({f"dead{number}": Peer("gone", f"dead{number}") for number in range(8)})
    for number in range(8):
        a.send(f"dead{number}", activation(0, bytes(100_000)), 0.0)
    assert a.in_flight_bytes >= limits().in_flight
    network.send("a", "living", Discarded("dev-1", 3))
    network.send("a", "living", activation(1, bytes(20_000)))
    for _ in range(200):
        if len(network.received["living"]) == 2 or network.now > 1.5:
            break
        step_towards(network, "living")
    assert len(network.received["living"]) == 2
    assert set(a.waiting_for()) >= {f"dead{number}" for number in range(8)}


def step_towards(network: Network, id: str) -> None:
    """One step that does not deliver to peers that are not there."""
    network._pipe = [entry for entry in network._pipe if f"/{id}/" in entry[2].topic or "/a/" in entry[2].topic]
    heapq.heapify(network._pipe)
    network.step()


def test_no_link_starves() -> None:
    """Links that always have more to send share the allowance: the last to come gets half as far as the first."""
    network = Network(seed=6)
    few = limits(in_flight=10_000)
    network.join("a", few)
    others = [f"b{number}" for number in range(8)]
    for other in others:
        network.join(other, few)
        for number in range(100):
            network.send("a", other, activation(number, bytes(3000)))
    while max(len(network.received[other]) for other in others) < 60:
        network.step()
    progress = [len(network.received[other]) for other in others]
    assert min(progress) >= 25, progress


def test_a_sender_and_its_acks_are_counted_in_bytes() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    network.send("a", "b", activation(1, bytes(5000)))
    network.run()
    assert a.sent_bytes == b.received_bytes > 5000
    assert b.sent_bytes == a.received_bytes > 0


def test_next_due_is_when_something_is_to_be_done() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    assert a.next_due() is None
    [(topic, payload)] = publishes(a.send("b", Admit(1, "b", "boot-b", 1, 5), 10.0))
    assert a.next_due() == 10.0 + FIRST_RETRY_S
    assert len(a.due(10.0 + FIRST_RETRY_S)) == 1
    b.receive(topic, payload, 11.0)
    assert b.next_due() == 11.0 + ACK_DELAY_S
    assert len(b.due(11.0 + ACK_DELAY_S)) == 1
    assert b.next_due() is None


def test_what_foreigners_send_makes_no_new_keys() -> None:
    """Whatever arrives is dropped and counted, under a bounded number of keys, and disturbs nothing."""
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    chance = random.Random(0)
    [(_, good)] = publishes(a.send("b", Commit(1, 2), 0.0))

    def attacks() -> Iterator[bytes]:
        for number in range(2000):
            flipped = bytearray(good)
            flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
            yield bytes(flipped)
            yield good[: chance.randrange(len(good))]
            yield chance.randbytes(chance.randrange(200))
            yield bytes(chunk.encode_chunk(ChunkHeader(f"boot-{number}", 1, 1, 1, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield bytes(chunk.encode_chunk(ChunkHeader("boot-a", number + 2, 1, 1, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield bytes(chunk.encode_chunk(ChunkHeader("boot-a", 1, 1, number + 600, 1, 0, 1, 0, 5, 5), [bytes(5)]))
            yield b"MPSL" + bytes([number % 256, number % 7]) + bytes(90)

    for number, attack in enumerate(attacks()):
        source = ("a", "a", f"c{number}")[number % 3]
        lane = ("fwd", "bwd", "weights", "ack")[number % 4]
        b.receive(BinaryTopic("run-1", "b", lane, source), attack, 0.0)
    assert set(b.dropped) <= KEYS
    assert sum(b.dropped.values()) > 10_000
    messages, _ = b.receive(BinaryTopic("run-1", "b", "ctl", "a"), good, 1.0)
    assert messages == [Commit(1, 2)]


def test_messages_on_the_wrong_lane_are_dropped() -> None:
    network = Network()
    a, b = network.join("a", limits()), network.join("b", limits())
    [(topic, payload)] = publishes(a.send("b", Commit(1, 2), 0.0))
    messages, _ = b.receive(BinaryTopic("run-1", "b", "weights", "a"), payload, 0.0)
    assert messages == []
    assert b.dropped == Counter({"lane": 1})
    assert topic.lane == "ctl"


@pytest.mark.parametrize("megabytes", [20, pytest.param(500, marks=pytest.mark.slow)])
def test_a_large_part_reaches_a_slow_reader_in_bounded_memory(megabytes: int) -> None:
    """Weights as slices over a broker that drops QoS 0 beyond its queue; no more than the windows is ever held."""
    part = [np.zeros(size, np.float32) for size in (megabytes * 230_000, 1000, 3, megabytes * 20_000)]
    for number, array in enumerate(part):
        array[...] = np.arange(array.size, dtype=np.float32) + number
    arrived = [np.zeros_like(array) for array in part]
    limits = Limits(message=10**6)
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
    assert [bool(payload.label) for payload in payloads] == [True] + [False] * (len(payloads) - 1)
    bodies = [
        decoded[1].nbytes for payload in payloads if isinstance(decoded := chunk.decode(bytes(payload.data)), tuple)
    ]
    assert sum(bodies) == size
    assert set(bodies[:-1]) <= {chunk_bytes - HEADER_ALLOWANCE}
    assert len(bodies) == -(-size // (chunk_bytes - HEADER_ALLOWANCE))
