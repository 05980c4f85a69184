"""Bursts that measure a link: consecutive pieces, whose spacing at the receiver shows the rate of the path.

The receiver times a burst from its first piece to its last with its own clock, so the time includes neither latency nor
another machine's clock. The bytes have no meaning and cannot be compressed. Nothing is sent from here.
"""

import functools
import hashlib
from collections.abc import Iterator
from math import inf

from mpsl.link_messages import ProbeBurst
from mpsl.messages import Tensor

PIECES = 8
START_BYTES = 16 * 1024
MAX_BYTES = PIECES * 511 * 1024
"""Maximum size of a burst: half of a link's window, so that it never waits for an acknowledgement.

A piece is smaller than a chunk.
"""
MAX_CHUNKS = 32
"""Maximum chunks of a burst, for the same reason if chunks are small."""
MIN_BURST_S = 0.2
"""The time of a burst from which other work of the machine disturbs it little."""
INTENDED_BURST_S = 0.3
MAX_GROWTH = 16
FULL_BURSTS = 2
"""Full bursts in each direction. The faster one counts, because a lost piece arrives seconds later."""


def probe_burst(number: int, size: int) -> Iterator[ProbeBurst]:
    """Return the pieces of a burst of about `size` bytes."""
    each = max(1, min(size, MAX_BYTES) // PIECES)
    tensor = Tensor("raw", "uint8", (each,), (_noise()[:each],))
    return (ProbeBurst(number, index, PIECES, tensor) for index in range(PIECES))


class Arrival:
    """Times the bursts that arrive over one link. Pieces arrive once and in their order."""

    def __init__(self) -> None:
        self._number = -1
        self._at = 0.0
        self._bytes = 0

    def add(self, piece: ProbeBurst, now: float, received_bytes: int) -> tuple[int, float] | None:
        """Return bytes and seconds from the first piece to the last, once the last has arrived.

        `received_bytes`: all bytes received so far.
        """
        if piece.index == 0:
            self._number, self._at, self._bytes = piece.number, now, received_bytes
        if piece.number != self._number or not 0 < piece.index == piece.count - 1:
            return None
        self._number = -1
        return received_bytes - self._bytes, now - self._at


class Direction:
    """The bursts in one direction: the rates that they have shown, and the size of the next one."""

    def __init__(self, chunk_bytes: int) -> None:
        self._most = min(MAX_BYTES, MAX_CHUNKS * chunk_bytes)
        self.size = min(START_BYTES, self._most)
        self._first: float | None = None
        self._counting: list[float] = []

    @property
    def done(self) -> bool:
        """Whether no more bursts are needed."""
        return len(self._counting) >= FULL_BURSTS

    @property
    def bytes_per_s(self) -> float | None:
        """The rate, infinite if no time has passed; None before the first burst."""
        return max(self._counting, default=self._first)

    def took(self, received: int, seconds: float) -> None:
        """Note a received burst."""
        rate = received / seconds if seconds > 0 else inf
        if seconds >= MIN_BURST_S or self.size == self._most:
            self._counting.append(rate)
        else:
            growth = min(MAX_GROWTH, INTENDED_BURST_S / seconds) if seconds > 0 else MAX_GROWTH
            self.size = min(self._most, int(self.size * growth))
        self._first = rate if self._first is None else max(rate, self._first)


@functools.cache
def _noise() -> memoryview:
    """Incompressible bytes, the same in every process."""
    return memoryview(hashlib.shake_128(b"mpsl").digest(MAX_BYTES // PIECES))
