"""A train: pieces sent right behind one another, whose spacing at the other end says how fast the way between is.

Timed from its first piece to its last by the one clock of whoever receives it, so that neither latency nor another
machine's clock is in it. Its bytes mean nothing, and nothing on the way can make them fewer. Sends nothing itself.
"""

import functools
import hashlib
from collections.abc import Iterator
from math import inf

from mpsl.messages import ProbeBurst, Tensor

PIECES = 8
START_BYTES = 16 * 1024
MAX_BYTES = PIECES * 511 * 1024
"""Half of a link's window, so that a train never waits for an acknowledgement; a piece is less than a whole chunk."""
MAX_CHUNKS = 32
"""For the same reason, where chunks are small."""
ENOUGH_S = 0.2
"""A train that takes so long is not disturbed much by whatever else a machine does."""
AIM_S = 0.3
MAX_GROWTH = 16
COUNTING = 2
"""Trains that count in each direction; the faster says it, for what was lost on the way comes seconds later."""


def probe_burst(number: int, size: int) -> Iterator[ProbeBurst]:
    """The pieces of a train of about `size` bytes."""
    each = max(1, min(size, MAX_BYTES) // PIECES)
    tensor = Tensor("raw", "uint8", (each,), (_noise()[:each],))
    return (ProbeBurst(number, index, PIECES, tensor) for index in range(PIECES))


class Arrival:
    """Times the trains that come in over one link, where pieces arrive once and in their order."""

    def __init__(self) -> None:
        self._number = -1
        self._at = 0.0
        self._bytes = 0

    def add(self, piece: ProbeBurst, now: float, received_bytes: int) -> tuple[int, float] | None:
        """Bytes and seconds from the first piece to the last, once that is here; `received_bytes` counts them all."""
        if piece.index == 0:
            self._number, self._at, self._bytes = piece.number, now, received_bytes
        if piece.number != self._number or not 0 < piece.index == piece.count - 1:
            return None
        self._number = -1
        return received_bytes - self._bytes, now - self._at


class Direction:
    """What the trains in one direction have shown, and how large the next one is to be."""

    def __init__(self, chunk_bytes: int) -> None:
        self._most = min(MAX_BYTES, MAX_CHUNKS * chunk_bytes)
        self.size = min(START_BYTES, self._most)
        self._first: float | None = None
        self._counting: list[float] = []

    @property
    def done(self) -> bool:
        """Whether no more trains are needed."""
        return len(self._counting) >= COUNTING

    @property
    def bytes_per_s(self) -> float | None:
        """The rate, infinite where no time could be seen to pass; None before any train."""
        return max(self._counting, default=self._first)

    def took(self, received: int, seconds: float) -> None:
        """A train has come in."""
        rate = received / seconds if seconds > 0 else inf
        if seconds >= ENOUGH_S or self.size == self._most:
            self._counting.append(rate)
        else:
            growth = min(MAX_GROWTH, AIM_S / seconds) if seconds > 0 else MAX_GROWTH
            self.size = min(self._most, int(self.size * growth))
        self._first = rate if self._first is None else max(rate, self._first)


@functools.cache
def _noise() -> memoryview:
    """Bytes that do not compress, the same everywhere."""
    return memoryview(hashlib.shake_128(b"mpsl").digest(MAX_BYTES // PIECES))
