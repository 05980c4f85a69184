"""How many devices are admitted at once: the plan's G, raised while the busiest seat idles with all places taken.

It judges by the busy seconds in the nodes' telemetry. It must never exceed the nodes' budgets, nor change a G that the
job chose.
"""

from dataclasses import dataclass

BUSY_SHARE = 0.95
"""A seat idles if its share of busy time is below this."""

MIN_BUSY_SHARE_GAIN = 0.02
"""A raise of G that lifts the busiest seat's share by no more than this was useless: the bottleneck is elsewhere."""

MIN_OBSERVED_S = 3.0
"""The shortest time between two telemetry messages that are compared."""


@dataclass(frozen=True)
class SeatProgress:
    """A node's telemetry about its seat: seconds since its start, busy seconds in this run, and steps made."""

    at: float
    busy_s: float
    steps: int


class Pace:
    """The present G and its maximum `most`; `seen` takes every telemetry of a seat."""

    def __init__(self, admit: int, most: int) -> None:
        self.admit = admit
        self._most = most
        self._first: dict[str, SeatProgress] = {}
        self._shares: dict[str, float] = {}
        self._before: float | None = None

    def interrupted(self) -> None:
        """Start the comparison again, because a place is free or the round is ending."""
        self._first.clear()
        self._shares.clear()

    def seen(self, seat: str, reading: SeatProgress, seats: int, places: int) -> bool:
        """Take the progress of one of `seats` seats, whose `places` are all taken. Returns whether G was raised."""
        first = self._first.setdefault(seat, reading)
        seconds = reading.at - first.at
        # Each admitted device has made two batches, so that a long batch does not look like an idle seat.
        if self.admit >= self._most or seconds < MIN_OBSERVED_S or reading.steps - first.steps < 2 * places:
            return False
        self._shares[seat] = (reading.busy_s - first.busy_s) / seconds
        if len(self._shares) < seats:
            return False
        share = max(self._shares.values())
        self.interrupted()
        if share >= BUSY_SHARE:
            return False
        if self._before is not None and share <= self._before + MIN_BUSY_SHARE_GAIN:
            self._most = self.admit
            return False
        self._before = share
        self.admit += 1
        return True
