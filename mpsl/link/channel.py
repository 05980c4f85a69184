"""All links of one process in one run: routes chunks and acks, fences by boot and term, bounds the bytes in flight.

It turns messages into publishes and publishes into messages. It must never know what a message means.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from operator import itemgetter

from mpsl import wire
from mpsl.errors import WireError
from mpsl.link import chunk
from mpsl.link.label import label
from mpsl.link.receiver import Receiver
from mpsl.link.sender import Sender
from mpsl.messages import Message
from mpsl.publish import Publish
from mpsl.topics import LANES, Address, BinaryTopic, Lane, Topics

WINDOW = 8 * 1024 * 1024
MAX_IN_FLIGHT = 64 * 1024 * 1024
CHUNK_BYTES = 1040 * 1024
"""A MiB of tensor plus headers: tensor sizes are powers of two, and a small remainder would cost another publish."""


YIELD_S = 1.0
"""How long after a tensor of a batch weights still yield to the next one."""


@dataclass(frozen=True)
class Peer:
    """A process that may talk to us: the boot that the plan names for its id, and the address for acks to it."""

    boot: str
    address: Address


@dataclass(frozen=True)
class Limits:
    """Upper bounds in bytes: one chunk (a whole MQTT payload), one link's window, all links together, one message.

    All links together may exceed `in_flight` by one chunk each: a link with nothing in flight may always send one, so
    that peers that do not answer never hold up the others.
    """

    chunk_bytes: int = CHUNK_BYTES
    window: int = WINDOW
    in_flight: int = MAX_IN_FLIGHT
    message: int = 1 << 30
    paced: bool = True
    """Whether a link holds only about two seconds of its measured rate in flight, and cuts its chunks accordingly."""
    yielding: bool = False
    """Whether weights have one chunk in flight, or two on a fast link, while activations or gradients go out."""


UNANSWERED_S = 10.0
"""From what age on a chunk without an acknowledgement is reported. On a paced link, chunks are some seconds old."""


@dataclass(frozen=True)
class Unanswered:
    """A chunk to `to` that is not acknowledged after `seconds`; payload `bytes`; the largest payload to it that was."""

    to: Address
    lane: Lane
    seconds: float
    bytes: int
    arrived: int


Outbound = Publish
"""What a link wants published: at QoS 0, not retained."""


class Channel:
    """The links of the process (`source`, `boot`) in `run` at `term`; `dropped` counts by class of WireError."""

    def __init__(
        self, topics: Topics, run: str, source: str, boot: str, term: int, limits: Limits, links_before: int = 0
    ) -> None:
        self.dropped: Counter[str] = Counter()
        self.progress = 0
        """Counts arrivals of new bytes, and acknowledgements of bytes in flight."""
        self.in_flight_bytes = 0
        """Bytes sent and not acknowledged, over all links."""
        self.held_bytes = 0
        """Bytes of messages of which only some chunks have arrived, over all links."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.peers: dict[str, Peer] = {}
        self.heard_at: dict[str, float] = {}
        """When the last chunk or acknowledgement of each peer arrived. Either is a sign of life."""
        self.largest_arrived = 0
        """The largest payload that any peer has acknowledged."""
        self.progress_at: dict[str, float] = {}
        """When each peer last sent something new, as counted by `progress`."""
        self._topics = topics
        self._run = run
        self._source = source
        self._boot = boot
        self._term = term
        self._limits = limits
        self._senders: dict[tuple[Address, Lane], Sender] = {}
        self._receivers: dict[tuple[str, Lane], Receiver] = {}
        # Only the links that have something to do, so that a thousand idle links cost nothing.
        self._unacknowledged: dict[tuple[Address, Lane], Sender] = {}
        self._retry_at = inf
        self._ack_due: dict[tuple[str, Lane], Receiver] = {}
        self._tensor_at = -inf
        """When an activation or gradient was last handed over."""
        self.links_used = links_before
        """The number of links that this process has started in the run and term; a later link has a higher number."""

    def set_peers(self, peers: Mapping[str, Peer]) -> None:
        """Accept messages from these ids in these boots only; state of an earlier boot is dropped."""
        for id, peer in peers.items():
            if self.peers.get(id) not in (None, peer):
                self.forget(id)
                for key in [key for key in self._receivers if key[0] == id]:
                    self.held_bytes -= self._receivers.pop(key).held_bytes
                    self._ack_due.pop(key, None)
            self.peers[id] = peer

    def forget(self, id: str) -> None:
        """Drop the links to `id` with everything pending on them; a later link is a new session.

        The links from it stay: its process continues their sequence numbers, so only it can begin a new session.
        """
        address = self.peers[id].address if id in self.peers else id
        for key in [key for key in self._senders if key[0] == address]:
            self.in_flight_bytes -= self._senders.pop(key).in_flight_bytes
            self._unacknowledged.pop(key, None)

    @property
    def idle(self) -> bool:
        """Whether everything sent has been acknowledged."""
        return not self._unacknowledged

    def waiting_for(self) -> list[Address]:
        """The addresses with something not yet acknowledged."""
        return sorted({to for to, _ in self._unacknowledged})

    def unanswered(self, now: float, seconds: float = UNANSWERED_S) -> list[Unanswered]:
        """Return the oldest chunk of each link that has not been acknowledged for so long, the oldest first."""
        found = []
        for (to, lane), sender in self._unacknowledged.items():
            oldest = sender.oldest()
            if oldest is not None and now - oldest[0] >= seconds:
                arrived = max(each.largest_arrived for (other, _), each in self._senders.items() if other == to)
                found.append(Unanswered(to, lane, now - oldest[0], oldest[1], arrived))
        return sorted(found, key=lambda each: -each.seconds)

    def seconds_under_way(self, to: Address) -> float:
        """Return how long the bytes in flight to an address take, at the last measured rates of its links."""
        links = (sender for (address, _), sender in self._unacknowledged.items() if address == to)
        return sum(sender.rate.measured_seconds_for(sender.in_flight_bytes) for sender in links)

    def send(self, to: Address, message: Message, now: float) -> list[Publish]:
        """Queue `message` and publish what the windows allow."""
        key = (to, message.lane)
        if key not in self._senders:
            self.links_used += 1
            topic = self._topics.binary(self._run, to, message.lane, self._source)
            limits = self._limits
            self._senders[key] = Sender(
                self._boot, self._term, self.links_used, limits.window, limits.chunk_bytes, topic, limits.paced
            )
        if message.lane in ("fwd", "bwd"):
            self._tensor_at = now
        sender = self._senders[key]
        sender.send(wire.encode(message), label(message))
        self._unacknowledged[key] = sender
        return self._sent_by(key, now, self._limits.in_flight - self.in_flight_bytes)

    def receive(self, topic: BinaryTopic, payload: wire.Buffer, now: float) -> tuple[list[Message], list[Publish]]:
        """Return messages that are now complete, and publishes in answer. Anything else is counted and dropped."""
        self.received_bytes += len(payload)
        try:
            decoded = chunk.decode(payload)
            self._check_peer(topic.source, decoded[0] if isinstance(decoded, tuple) else decoded)
            self.heard_at[topic.source] = now
            if isinstance(decoded, chunk.Ack) != (topic.lane == "ack"):
                raise WireError(f"lane: {topic.lane} cannot carry {type(decoded).__name__}")
            if isinstance(decoded, chunk.Ack):
                return [], self._acknowledged(topic.source, decoded, now)
            return self._arrived(topic, *decoded, now)
        except WireError as error:
            self._drop(error)
            return [], []

    def due(self, now: float) -> list[Publish]:
        """Acks whose delay has passed and chunks whose retry time has come."""
        outbound = []
        for (source, lane), receiver in list(self._ack_due.items()):
            if receiver.ack_at is not None and receiver.ack_at <= now:
                outbound += self._ack(source, lane, receiver)
        if now >= self._retry_at:
            for sender in self._unacknowledged.values():
                outbound += self._counted(sender.retry(now))
            self._retry_at = min((_retry_at(sender) for sender in self._unacknowledged.values()), default=inf)
        return outbound

    def next_due(self) -> float | None:
        """When to call `due`; by then an acknowledgement may have postponed what was due."""
        at = self._retry_at if self._unacknowledged else inf
        for receiver in self._ack_due.values():
            if receiver.ack_at is not None and receiver.ack_at < at:
                at = receiver.ack_at
        return None if at == inf else at

    def _drop(self, error: WireError) -> None:
        # Count by class only: a sender must not be able to create keys.
        self.dropped[str(error).partition(":")[0]] += 1

    def _check_peer(self, source: str, header: chunk.ChunkHeader | chunk.Ack) -> None:
        peer = self.peers.get(source)
        if peer is None:
            raise WireError(f"stranger: {source} is not in the plan")
        if peer.boot != header.boot:
            raise WireError(f"boot: {source} has another boot than in the plan")
        if header.term != self._term:
            raise WireError(f"term: {source} is in another term")

    def _progressed(self, source: str, now: float) -> None:
        self.progress += 1
        self.progress_at[source] = now

    def _acknowledged(self, source: str, ack: chunk.Ack, now: float) -> list[Publish]:
        address = self.peers[source].address
        lane = next((lane for lane in LANES if lane == ack.lane), None)
        sender = self._senders.get((address, lane)) if lane else None
        if lane is None or sender is None or ack.to_boot != self._boot or ack.session != sender.session:
            raise WireError("ack: the link is unknown or has ended")
        before = sender.in_flight_bytes
        outbound = self._counted(sender.acknowledge(ack, now))
        self.largest_arrived = max(self.largest_arrived, sender.largest_arrived)
        self.in_flight_bytes += sender.in_flight_bytes - before
        if before > sender.in_flight_bytes or outbound:
            self._progressed(source, now)
        if sender.idle:
            self._unacknowledged.pop((address, lane), None)
        return outbound + self._fill(now)

    def _fill(self, now: float) -> list[Publish]:
        """Share the free room among waiting links, least in flight first, so that none starves."""
        outbound = []
        room = self._limits.in_flight - self.in_flight_bytes
        waiting = [(sender.in_flight_bytes, key) for key, sender in self._unacknowledged.items() if sender.waiting]
        waiting.sort(key=itemgetter(0))
        for number, (_, key) in enumerate(waiting):
            share = max(room // (len(waiting) - number), min(room, self._limits.chunk_bytes))
            before = self.in_flight_bytes
            outbound += self._sent_by(key, now, share)
            room -= self.in_flight_bytes - before
        return outbound

    def _sent_by(self, key: tuple[Address, Lane], now: float, allowance: int) -> list[Publish]:
        sender = self._senders[key]
        if self._limits.yielding and key[1] == "weights" and now - self._tensor_at < YIELD_S:
            # One chunk may go all the same. On a fast link a second one saves the delay of the acknowledgement.
            allowance = min(allowance, 2 * self._limits.chunk_bytes - sender.in_flight_bytes if sender.is_fast else 0)
        before = sender.in_flight_bytes
        outbound = self._counted(sender.fill(now, allowance))
        self.in_flight_bytes += sender.in_flight_bytes - before
        # A lower bound is enough: with a thousand links, looking at each for the exact time would cost more.
        self._retry_at = min(self._retry_at, _retry_at(sender))
        return outbound

    def _arrived(
        self, topic: BinaryTopic, header: chunk.ChunkHeader, body: memoryview, now: float
    ) -> tuple[list[Message], list[Publish]]:
        key = (topic.source, topic.lane)
        receiver = self._receivers.get(key)
        if receiver is None or receiver.boot != header.boot or receiver.session < header.session:
            self.held_bytes -= receiver.held_bytes if receiver is not None else 0
            receiver = Receiver(header.boot, header.session, self._limits.window, self._limits.message)
            self._receivers[key] = receiver
            self._ack_due.pop(key, None)
        elif receiver.session > header.session:
            raise WireError("session: chunk of an earlier one")
        before, repeats = receiver.held_bytes, receiver.duplicates
        try:
            buffers = receiver.receive(header, body, now)
        finally:
            self.held_bytes += receiver.held_bytes - before
        if receiver.duplicates == repeats:
            self._progressed(topic.source, now)
        if receiver.ack_at is not None:
            self._ack_due[key] = receiver
        outbound = []
        if receiver.ack_at is not None and receiver.ack_at <= now:
            outbound = self._ack(topic.source, topic.lane, receiver)
        return self._decoded(topic.lane, buffers), outbound

    def _decoded(self, lane: Lane, buffers: Sequence[wire.Buffer]) -> list[Message]:
        messages = []
        for buffer in buffers:
            try:
                message = wire.decode(buffer)
                if message.lane != lane:
                    raise WireError(f"lane: {lane} cannot carry {message.kind}")
                messages.append(message)
            except WireError as error:
                self._drop(error)
        return messages

    def _ack(self, source: str, lane: Lane, receiver: Receiver) -> list[Publish]:
        payload = chunk.encode_ack(receiver.ack(self._boot, self._term, lane))
        self._ack_due.pop((source, lane), None)
        self.sent_bytes += len(payload)
        return [Publish(self._topics.binary(self._run, self.peers[source].address, "ack", self._source), payload)]

    def _counted(self, outbound: list[Publish]) -> list[Publish]:
        self.sent_bytes += sum(len(each.payload) for each in outbound)
        return outbound


def _retry_at(sender: Sender) -> float:
    return inf if sender.retry_at is None else sender.retry_at
