"""The receiving end of one link: assembles chunks, delivers each message once and in order, acknowledges.

Pure. It must never allocate memory for a message before it has checked the size against the limit.
"""

import itertools

import numpy as np
from msgspec import Struct, field

from mpsl.errors import WireError
from mpsl.link.chunk import MAX_AHEAD, MAX_GAPS, Ack, ChunkHeader
from mpsl.wire import ALIGNMENT, Buffer

ACK_DELAY_S = 0.02
"""The maximum delay of an acknowledgement, in seconds."""


def aligned_buffer(size: int) -> memoryview:
    """Return a writable buffer of `size` bytes that is aligned to 64 bytes, like torch's own memory.

    On other alignments, kernels may take another path and round differently.
    """
    whole = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -int(whole.ctypes.data) % ALIGNMENT
    return memoryview(whole[start : start + size].data)


class _Assembly(Struct, gc=False):
    """A message of which some chunks have arrived; `spans` holds their begin and end, by index."""

    size: int
    total: int
    buffer: Buffer
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all chunks have arrived; neighbours touch, so they cover every byte exactly once."""
        return len(self.spans) == self.total

    def add(self, header: ChunkHeader, body: memoryview) -> None:
        """Store a chunk. Raises WireError if it contradicts earlier ones."""
        begin, end = header.offset, header.end
        _, before = self.spans.get(header.index - 1, (0, begin))
        after, _ = self.spans.get(header.index + 1, (end, 0))
        same = (self.size, self.total) == (header.size, header.total)
        if not same or (before, after) != (begin, end) or header.index in self.spans:
            raise WireError(f"chunk: {header.index} of message {header.message} contradicts earlier ones")
        if self.total > 1:
            memoryview(self.buffer)[begin:end] = body
        self.spans[header.index] = begin, end


class Receiver:
    """One session of one link from one boot; `window` is the sender's maximum, `limit` the largest message, in bytes.

    Its memory is bounded by the sender's window plus the rest of the messages at both ends of it.
    """

    def __init__(self, boot: str, session: int, window: int, limit: int) -> None:
        self.boot = boot
        self.session = session
        self.duplicates = 0
        self.held_bytes = 0
        self.ack_at: float | None = None
        self._window = window
        self._limit = limit
        self._next = 0
        self._ahead: set[int] = set()
        self._next_message = 0
        self._assemblies: dict[int, _Assembly] = {}
        self._unacknowledged = 0

    def receive(self, header: ChunkHeader, body: memoryview, now: float) -> list[Buffer]:
        """Return the messages that are complete and next in order. Raises WireError for a contradicting chunk."""
        if header.size > self._limit:
            raise WireError(f"oversized: message of {header.size} bytes; the limit of this run is {self._limit}")
        if header.sequence < self._next or header.sequence in self._ahead:
            # A repeat means that our ack was lost or is late: send another one at once.
            self.duplicates += 1
            self.ack_at = now
            return []
        if header.sequence - self._next >= MAX_AHEAD:
            raise WireError(f"window: chunk {header.sequence} is beyond it; {self._next} is next")
        self._place(header, body)
        if header.sequence == self._next:
            self._next += 1
            while self._next in self._ahead:
                self._ahead.remove(self._next)
                self._next += 1
        else:
            self._ahead.add(header.sequence)
        self._unacknowledged += body.nbytes
        soon = now if self._ahead or self._unacknowledged >= self._window // 4 else now + ACK_DELAY_S
        self.ack_at = soon if self.ack_at is None else min(self.ack_at, soon)
        return self._whole()

    def ack(self, boot: str, term: int, lane: str) -> Ack:
        """Return the acknowledgement of everything so far, and reset the delay."""
        self.ack_at = None
        self._unacknowledged = 0
        ahead = sorted(self._ahead)
        pairs = itertools.pairwise([self._next - 1, *ahead])
        gaps = [(before + 1, after) for before, after in pairs if before + 1 < after]
        highest = ahead[-1] + 1 if ahead else self._next
        if len(gaps) > MAX_GAPS:
            # A chunk that is not named as missing counts as arrived, so the ack must end at the last named gap.
            highest = gaps[MAX_GAPS][0]
        return Ack(boot, term, self.boot, lane, self.session, self._next, highest, tuple(gaps[:MAX_GAPS]))

    def _place(self, header: ChunkHeader, body: memoryview) -> None:
        assembly = self._assemblies.get(header.message)
        if assembly is None:
            if not self._next_message <= header.message < self._next_message + MAX_AHEAD:
                raise WireError(f"window: message {header.message}, but {self._next_message} is next")
            if self.held_bytes + header.size > self._window + 2 * self._limit:
                raise WireError(
                    f"window: {self.held_bytes} bytes are held; a message of {header.size} more is too large"
                )
            # A message in one chunk needs no second copy.
            buffer = body if header.total == 1 else aligned_buffer(header.size)
            assembly = _Assembly(header.size, header.total, buffer)
            self._assemblies[header.message] = assembly
            self.held_bytes += header.size
        assembly.add(header, body)

    def _whole(self) -> list[Buffer]:
        whole = []
        while (assembly := self._assemblies.get(self._next_message)) and assembly.whole:
            whole.append(assembly.buffer)
            self.held_bytes -= assembly.size
            del self._assemblies[self._next_message]
            self._next_message += 1
        return whole
