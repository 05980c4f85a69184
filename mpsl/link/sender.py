"""The sending end of one link: cuts messages into chunks, keeps a window of them in flight, resends what was lost.

Pure: the caller passes the time and gets the chunks to publish. It must never copy a message: every chunk is a view of
the message's own buffers, so the caller must leave a buffer unchanged until it is acknowledged.
"""

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from mpsl.link.chunk import MAX_AHEAD, Ack, ChunkHeader, encode_chunk
from mpsl.link.rate import DeliveryRate
from mpsl.publish import Publish
from mpsl.wire import Buffer

FIRST_RETRY_S = 2.0
MAX_RETRY_S = 30.0
HEADER_ALLOWANCE = 256
"""Bytes of a chunk that are reserved for its header; the body gets the rest."""


class OutgoingMessage(Struct, gc=False):
    """One message as the buffers that make it up; `label` is for people who watch the topics."""

    number: int
    buffers: tuple[Buffer, ...]
    size: int
    label: tuple[tuple[str, str], ...]
    body: int = 0
    """Body bytes of each chunk except the last; 0 before the first is cut."""
    total: int = 0
    """The number of chunks."""


class _InFlight(Struct, gc=False):
    """Chunk `index` of a message; `position` counts the bytes of all chunks that the link sent before it.

    `delivered` and `delivered_at` are the link's values from when it was sent.
    """

    outgoing: OutgoingMessage
    index: int
    offset: int
    length: int
    position: int
    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    resent: bool = False


class Sender:
    """One session of one link: publishes to `topic`; `session` rises with every restart of the link.

    `window` and `chunk_bytes` in bytes are upper bounds; with `paced` the bytes in flight follow the link's rate.
    """

    def __init__(
        self,
        boot: str,
        term: int,
        session: int,
        window: int,
        chunk_bytes: int,
        topic: str = "",
        paced: bool = True,
    ) -> None:
        self.session = session
        self.in_flight_bytes = 0
        self.largest_arrived = 0
        """The largest payload of a chunk that was acknowledged, at most HEADER_ALLOWANCE too high."""
        self._boot = boot
        self._term = term
        self._topic = topic
        self._max_chunk = max(1, chunk_bytes - HEADER_ALLOWANCE)
        self.rate = DeliveryRate(window, self._max_chunk, paced)
        self._queue: deque[OutgoingMessage] = deque()
        self._queued_index = 0
        self._messages = 0
        self._next_sequence = 0
        self._position = 0
        self._in_flight: dict[int, _InFlight] = {}
        self._oldest = self._oldest_position = 0
        """Sequence and position of the oldest chunk in flight; a search would visit all chunks before it."""
        self._retry_s = FIRST_RETRY_S
        self._smoothed_s: float | None = None
        self._retry_at: float | None = None

    @property
    def idle(self) -> bool:
        """Whether everything sent has been acknowledged."""
        return not self._queue and not self._in_flight

    @property
    def waiting(self) -> bool:
        """Whether something is queued that has not been sent even once."""
        return bool(self._queue)

    @property
    def is_fast(self) -> bool:
        """Whether the link carries the largest chunks in no time that anybody would notice."""
        return self.rate.chunk_bytes >= self._max_chunk

    @property
    def retry_at(self) -> float | None:
        """When to call `retry`; None if nothing is in flight."""
        return self._retry_at

    def oldest(self) -> tuple[float, int] | None:
        """When the oldest chunk in flight was sent first, and its payload's bytes; None if nothing is in flight."""
        if not self._in_flight:
            return None
        chunk = self._in_flight[self._oldest]
        return chunk.first_sent_at, chunk.length + HEADER_ALLOWANCE

    def send(self, buffers: Sequence[Buffer], label: tuple[tuple[str, str], ...]) -> None:
        """Queue a message, given as flat buffers; `fill` returns the chunks that may be sent now."""
        self._queue.append(OutgoingMessage(self._messages, tuple(buffers), sum(map(len, buffers)), label))
        self._messages += 1

    def fill(self, now: float, allowance: int) -> list[Publish]:
        """Return chunks that fit the window and at most `allowance` more bytes in flight; at least one if none is.

        The window reaches from the oldest unacknowledged chunk to the newest: the receiver has to hold everything
        between them.
        """
        payloads = []
        while self._queue:
            outgoing, index = self._queue[0], self._queued_index
            if not outgoing.body:
                outgoing.body = self.rate.chunk_bytes
                outgoing.total = -(-outgoing.size // outgoing.body)
            offset = index * outgoing.body
            length = min(outgoing.body, outgoing.size - offset)
            if self._in_flight:
                room = self.rate.window - (self._position - self._oldest_position)
                if length > min(room, allowance) or self._next_sequence - self._oldest >= MAX_AHEAD:
                    break
            else:
                self._oldest, self._oldest_position = self._next_sequence, self._position
                self.rate.begin(now)
            delivered, delivered_at = self.rate.delivered, self.rate.delivered_at
            chunk = _InFlight(outgoing, index, offset, length, self._position, now, delivered, delivered_at, now)
            self._in_flight[self._next_sequence] = chunk
            payloads.append(self._payload(self._next_sequence, chunk))
            self.in_flight_bytes += length
            self._position += length
            allowance -= length
            self._next_sequence += 1
            self._queued_index += 1
            if self._queued_index == outgoing.total:
                self._queue.popleft()
                self._queued_index = 0
        if payloads and self._retry_at is None:
            self._retry_at = now + self._patience_s()
        return payloads

    def acknowledge(self, ack: Ack, now: float) -> list[Publish]:
        """Remove acknowledged chunks. Returns those that the ack names as missing, each at most once per round trip."""
        oldest = self._oldest if self._in_flight else self._next_sequence
        missing = {
            sequence
            for first, end in ack.gaps
            for sequence in range(max(first, oldest), min(end, self._next_sequence))
            if sequence in self._in_flight
        }
        newest: _InFlight | None = None
        before = self.in_flight_bytes
        for sequence in range(oldest, min(ack.highest, self._next_sequence)):
            if sequence not in missing and (chunk := self._in_flight.pop(sequence, None)) is not None:
                self.in_flight_bytes -= chunk.length
                self.largest_arrived = max(self.largest_arrived, chunk.length + HEADER_ALLOWANCE)
                newest = chunk
        if newest is not None:
            if self._in_flight:
                self._oldest = next(iter(self._in_flight))
                self._oldest_position = self._in_flight[self._oldest].position
            self._observe(newest, before - self.in_flight_bytes, now)
            self._retry_s = max(FIRST_RETRY_S, min(MAX_RETRY_S, 4 * (self._smoothed_s or 0.0)))
            self._retry_at = now + self._patience_s() if self._in_flight else None
        patience = min(FIRST_RETRY_S if self._smoothed_s is None else self._smoothed_s, FIRST_RETRY_S)
        again = [s for s in sorted(missing) if now - self._in_flight[s].sent_at >= patience]
        return [self._resend(sequence, now) for sequence in again]

    def retry(self, now: float) -> list[Publish]:
        """No ack came in time: resend the oldest quarter of the window, and double the time before the next retry."""
        if self._retry_at is None or now < self._retry_at:
            return []
        self._retry_s = min(MAX_RETRY_S, 2 * self._retry_s)
        self._retry_at = now + self._patience_s()
        self.rate.unanswered()
        payloads: list[Publish] = []
        room = self.rate.window // 4
        for sequence in list(self._in_flight):
            room -= self._in_flight[sequence].length
            if payloads and room < 0:
                break
            payloads.append(self._resend(sequence, now))
        return payloads

    def _patience_s(self) -> float:
        """Return the retry time: 1.5 times what the bytes in flight take at the link's rate."""
        return max(self._retry_s, min(MAX_RETRY_S, 1.5 * self.rate.seconds_for(self.in_flight_bytes)))

    def _observe(self, newest: _InFlight, nbytes: int, now: float) -> None:
        """Measure the rate from `nbytes` acknowledged bytes, of which `newest` is the last chunk."""
        if newest.resent:
            self.rate.count(nbytes, now)
            return
        seconds = now - newest.sent_at
        limited = bool(self._queue)
        self.rate.acknowledged(nbytes, newest.sent_at, newest.delivered, newest.delivered_at, now, limited)
        self._smoothed_s = seconds if self._smoothed_s is None else 0.8 * self._smoothed_s + 0.2 * seconds

    def _resend(self, sequence: int, now: float) -> Publish:
        chunk = self._in_flight[sequence]
        chunk.sent_at = now
        chunk.resent = True
        return self._payload(sequence, chunk)

    def _payload(self, sequence: int, chunk: _InFlight) -> Publish:
        outgoing, index, offset, length = chunk.outgoing, chunk.index, chunk.offset, chunk.length
        number, total, size = outgoing.number, outgoing.total, outgoing.size
        header = ChunkHeader(self._boot, self._term, self.session, sequence, number, index, total, offset, size, length)
        body = outgoing.buffers if total == 1 else _cut(outgoing.buffers, offset, length)
        return Publish(self._topic, encode_chunk(header, body), properties=outgoing.label if index == 0 else ())


def _cut(buffers: Sequence[Buffer], offset: int, length: int) -> list[memoryview]:
    """Return views of bytes `offset` to `offset + length` of the concatenated buffers."""
    views = []
    for buffer in buffers:
        if offset < len(buffer) and length > 0:
            view = memoryview(buffer)[offset : offset + length]
            views.append(view)
            length -= len(view)
        offset = max(0, offset - len(buffer))
    return views
