"""The receiving end of one link: puts chunks together, hands each message up once and in order, says what has arrived.

Pure. It must never allocate for a message before its size has been checked against the limit.
"""

from dataclasses import dataclass, field

import numpy as np

from mpsl.errors import WireError
from mpsl.link.chunk import Ack, ChunkHeader
from mpsl.wire import ALIGNMENT, Buffer

ACK_DELAY_S = 0.02
"""The longest that an arrived chunk waits for its acknowledgement."""
MAX_AHEAD = 4096
"""Chunks beyond the first missing one that are kept; more than any window holds."""


def aligned_buffer(size: int) -> memoryview:
    """A writable buffer of `size` bytes that begins at a multiple of 64, as torch's own memory does.

    Kernels may take another path, and round differently, on memory that is aligned differently.
    """
    whole = np.empty(size + ALIGNMENT, dtype=np.uint8)
    start = -int(whole.ctypes.data) % ALIGNMENT
    return memoryview(whole[start : start + size].data)


@dataclass
class _Assembly:
    """A message of which some chunks have arrived."""

    size: int
    total: int
    buffer: Buffer
    indices: set[int] = field(default_factory=set)


class Receiver:
    """One session of one link from one boot; `window` as the sender's, `limit` the largest message in bytes."""

    def __init__(self, boot: str, session: int, window: int, limit: int) -> None:
        self.boot = boot
        self.session = session
        self.duplicates = 0
        self.ack_at: float | None = None
        self._window = window
        self._limit = limit
        self._next = 0
        self._ahead: set[int] = set()
        self._next_message = 0
        self._assemblies: dict[int, _Assembly] = {}
        self._unacknowledged = 0

    def receive(self, header: ChunkHeader, body: memoryview, now: float) -> list[Buffer]:
        """Messages that are whole and next in order; raises WireError for a chunk that contradicts the ones before."""
        if header.size > self._limit:
            raise WireError(f"message of {header.size} bytes; the limit of this run is {self._limit}")
        if header.sequence < self._next or header.sequence in self._ahead:
            # A repeat means that our ack was lost or is late: say again at once what we have.
            self.duplicates += 1
            self.ack_at = now
            return []
        if header.sequence - self._next > MAX_AHEAD:
            raise WireError(f"chunk {header.sequence} is beyond the window; {self._next} is next")
        self._place(header, body)
        self._ahead.add(header.sequence)
        while self._next in self._ahead:
            self._ahead.remove(self._next)
            self._next += 1
        self._unacknowledged += body.nbytes
        soon = now if self._ahead or self._unacknowledged >= self._window // 4 else now + ACK_DELAY_S
        self.ack_at = soon if self.ack_at is None else min(self.ack_at, soon)
        return self._whole()

    def ack(self, boot: str, term: int, lane: str) -> Ack:
        """What has arrived so far; resets the delay."""
        self.ack_at = None
        self._unacknowledged = 0
        highest = max(self._ahead) + 1 if self._ahead else self._next
        gaps: list[tuple[int, int]] = []
        first = self._next
        for sequence in sorted(self._ahead):
            if sequence > first:
                gaps.append((first, sequence))
            first = sequence + 1
        return Ack(boot, term, self.boot, lane, self.session, self._next, highest, tuple(gaps[:256]))

    def _place(self, header: ChunkHeader, body: memoryview) -> None:
        assembly = self._assemblies.get(header.message)
        if assembly is None:
            if header.message < self._next_message:
                raise WireError(f"message {header.message} was complete")
            if header.total == 1:
                # Whole in one chunk: no second copy.
                self._assemblies[header.message] = _Assembly(header.size, 1, body, {0})
                return
            assembly = _Assembly(header.size, header.total, aligned_buffer(header.size))
            self._assemblies[header.message] = assembly
        if (assembly.size, assembly.total) != (header.size, header.total) or header.index in assembly.indices:
            raise WireError(f"chunk {header.index} of message {header.message} contradicts the ones before")
        memoryview(assembly.buffer)[header.offset : header.offset + body.nbytes] = body
        assembly.indices.add(header.index)

    def _whole(self) -> list[Buffer]:
        whole = []
        while (assembly := self._assemblies.get(self._next_message)) and len(assembly.indices) == assembly.total:
            whole.append(assembly.buffer)
            del self._assemblies[self._next_message]
            self._next_message += 1
        return whole


