"""Links for tests: a network that loses, doubles and reorders, and a sender and a receiver by themselves."""

import heapq
import itertools
import random

from mpsl import wire
from mpsl.link import chunk
from mpsl.link.channel import Channel, Limits, Peer
from mpsl.link.chunk import ChunkHeader
from mpsl.link.receiver import Receiver
from mpsl.link.sender import HEADER_ALLOWANCE, Sender
from mpsl.messages import Activation, Fault, Message, Tensor, Ticket
from mpsl.publish import Publish
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
        self._pipe: list[tuple[float, int, Publish]] = []
        self._order = itertools.count()

    def join(self, id: str, limits: Limits, boot: str = "", term: int = 1) -> Channel:
        """A channel under `id`; everybody knows everybody."""
        channel = Channel(TOPICS, "run-1", id, boot or f"boot-{id}", term, limits)
        self.channels[id] = channel
        self.received.setdefault(id, [])
        peers = {other: Peer(each._boot, other) for other, each in self.channels.items()}
        for each in self.channels.values():
            each.set_peers(peers)
        return channel

    def send(self, source: str, to: str, message: Message) -> None:
        self.publish(self.channels[source].send(to, message, self.now))

    def publish(self, outbound: list[Publish]) -> None:
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


class Pair:
    """A sender and a receiver without a channel between them, for what the two do alone."""

    def __init__(self, window: int, body: int, limit: int = 10**6) -> None:
        self.sender = Sender("sender", 1, 1, window, body + HEADER_ALLOWANCE)
        self.receiver = Receiver("sender", 1, window, limit)

    def deliver(self, payload: Publish, now: float) -> list[wire.Buffer]:
        decoded = chunk.decode(bytes(payload.payload))
        assert isinstance(decoded, tuple)
        return self.receiver.receive(*decoded, now)

    def acknowledge(self, now: float) -> list[Publish]:
        return self.sender.acknowledge(self.receiver.ack("receiver", 1, "fwd"), now)


def header_of(payload: Publish) -> ChunkHeader:
    decoded = chunk.decode(bytes(payload.payload))
    assert isinstance(decoded, tuple)
    return decoded[0]
