"""A link follows its rate: what is in flight is about two seconds of it, slow or fast, and nothing is sent twice."""

import heapq
import itertools
import random

import pytest
from links import TOPICS

from mpsl.link.channel import CHUNK_BYTES, WINDOW, Channel, Limits, Peer
from mpsl.link.rate import FIRST_WINDOW, QUEUE_S, DeliveryRate
from mpsl.messages import Slice, Tensor
from mpsl.publish import Publish
from mpsl.topics import BinaryTopic

MBIT = 125_000.0
"""Bytes a second."""


def part(size: int, chunk: int = CHUNK_BYTES - 1024) -> list[Slice]:
    """Weights of so many bytes, as slices of a chunk each."""
    found = []
    for offset in range(0, size, chunk):
        data = memoryview(bytes(min(chunk, size - offset)))
        found.append(Slice("global", 1, 0, 1, 0, offset, Tensor("raw", "uint8", (len(data),), (data,))))
    return found


class SlowLink:
    """Two channels in virtual time, a broker that queues between them; the way to b carries `rate` bytes a second."""

    def __init__(self, rate: float, latency_s: float = 0.02) -> None:
        self.now = 0.0
        self.rate = rate
        self.queued_s = 0.0
        """The longest that something which arrives at the broker would have waited behind what is queued."""
        self.publishes = 0
        self._latency_s = latency_s
        self._free_at = 0.0
        self._events: list[tuple[float, int, Publish]] = []
        self._order = itertools.count()
        self.a = Channel(TOPICS, "run-1", "a", "boot-a", 1, Limits())
        self.b = Channel(TOPICS, "run-1", "b", "boot-b", 1, Limits())
        self.a.set_peers({"b": Peer("boot-b", "b")})
        self.b.set_peers({"a": Peer("boot-a", "a")})
        self.received = 0

    def publish(self, outbound: list[Publish]) -> None:
        for each in outbound:
            at = self.now + self._latency_s
            if "/b/" in each.topic:
                self.publishes += 1
                self._free_at = max(self.now, self._free_at) + len(each.payload) / self.rate
                at += self._free_at - self.now
                self.queued_s = max(self.queued_s, self._free_at - self.now)
            heapq.heappush(self._events, (at, next(self._order), each))

    def run(self) -> float:
        """Until all has arrived and is acknowledged; returns when that is."""
        while not self.a.idle:
            due = min((at for c in (self.a, self.b) if (at := c.next_due()) is not None), default=None)
            if self._events and (due is None or self._events[0][0] <= due):
                self.now, _, each = heapq.heappop(self._events)
                topic = TOPICS.parse(each.topic)
                assert isinstance(topic, BinaryTopic)
                channel = self.b if topic.to == "b" else self.a
                messages, answer = channel.receive(topic, bytes(each.payload), self.now)
                self.received += len(messages)
                self.publish(answer)
            else:
                assert due is not None
                self.now = max(self.now, due)
                self.publish(self.a.due(self.now) + self.b.due(self.now))
        return self.now


@pytest.mark.parametrize("mbit", [1, 2, 8, 100])
def test_a_part_of_16_mb_takes_the_time_of_its_bytes_and_queues_two_seconds(mbit: int) -> None:
    size = 16_000_000
    link = SlowLink(mbit * MBIT)
    slices = part(size)
    for each in slices:
        link.publish(link.a.send("b", each, link.now))
    took = link.run()
    assert link.received == len(slices)
    assert took <= 1.1 * size / link.rate + 0.5
    assert link.queued_s <= 2.5, "an answer of the broker waits behind that"
    assert not link.a.dropped + link.b.dropped
    receiver = link.b._receivers["a", "weights"]
    assert receiver.duplicates == 0, "nothing is sent twice"


def test_a_fast_link_keeps_its_large_chunks_and_fills_its_window() -> None:
    link = SlowLink(1e9, 0.0005)
    slices = part(200_000_000)
    for each in slices:
        link.publish(link.a.send("b", each, link.now))
    link.run()
    assert link.publishes <= len(slices) + 40
    assert link.a._senders["b", "weights"].rate.window == WINDOW


@pytest.mark.parametrize(("before", "after"), [(100, 1), (1, 100), (8, 2)])
def test_a_link_that_changes_is_followed(before: int, after: int) -> None:
    link = SlowLink(before * MBIT)
    for each in part(8_000_000):
        link.publish(link.a.send("b", each, link.now))
    link.run()
    link.rate = after * MBIT
    began = link.now
    for each in part(16_000_000):
        link.publish(link.a.send("b", each, link.now))
    took = link.run() - began
    assert took <= 1.4 * 16_000_000 / link.rate + 3.0, "what is sent twice after a fall to a hundredth is bounded"
    link.queued_s = 0.0
    for each in part(8_000_000):
        link.publish(link.a.send("b", each, link.now))
    link.run()
    assert link.queued_s <= 2.5


def test_small_messages_say_nothing_of_the_rate() -> None:
    """A request and its answer take a round trip, whatever the link; the next part is not cut for that."""
    link = SlowLink(1000 * MBIT, 0.05)
    for _ in range(20):
        link.publish(link.a.send("b", part(200)[0], link.now))
        link.run()
    assert link.a._senders["b", "weights"].rate.bytes_per_s is None


def test_a_long_way_does_not_starve_a_link() -> None:
    """A round trip of 1.2 seconds without a queue: the window grows to what the link carries, not down to a chunk."""
    link = SlowLink(8 * MBIT, 0.6)
    for each in part(32_000_000):
        link.publish(link.a.send("b", each, link.now))
    assert link.run() <= 1.6 * 32_000_000 / link.rate


def test_any_chunk_and_any_acknowledgement_of_a_peer_is_a_sign_of_life() -> None:
    link = SlowLink(2 * MBIT)
    for each in part(3_000_000):
        link.publish(link.a.send("b", each, link.now))
    ended = link.run()
    assert link.a.heard_at["b"] == ended
    assert ended - link.b.heard_at["a"] <= 1.0
    stranger = link.a.send("b", part(10)[0], ended)[0]
    topic = BinaryTopic("run-1", "b", "weights", "c")
    link.b.receive(topic, bytes(stranger.payload), ended + 1)
    assert "c" not in link.b.heard_at


def test_an_unpaced_link_sends_its_whole_window_at_once() -> None:
    """Links are measured with bursts; those do not wait for acknowledgements."""
    channel = Channel(TOPICS, "run-1", "a", "boot-a", 1, Limits(paced=False))
    channel.set_peers({"b": Peer("boot-b", "b")})
    sent = [outbound for each in part(WINDOW) for outbound in channel.send("b", each, 0.0)]
    assert sum(len(each.payload) for each in sent) > WINDOW - CHUNK_BYTES
    paced = Channel(TOPICS, "run-1", "a", "boot-a", 1, Limits())
    paced.set_peers({"b": Peer("boot-b", "b")})
    sent = [outbound for each in part(WINDOW) for outbound in paced.send("b", each, 0.0)]
    assert sum(len(each.payload) for each in sent) <= 1.1 * FIRST_WINDOW


def test_the_window_is_bounded_whatever_is_measured() -> None:
    rate = DeliveryRate(1000, 100, True)
    chance = random.Random(1)
    now = 0.0
    for _ in range(2000):
        now += chance.choice([0.0, 1e-6, 0.1, 50.0])
        rate.acknowledged(chance.randrange(10**6), now - 1, rate.delivered, rate.delivered_at, now, True)
        if chance.random() < 0.2:
            rate.unanswered()
        assert 100 <= rate.window <= 1000
        assert 1 <= rate.chunk_bytes <= 100
    assert QUEUE_S <= 2
