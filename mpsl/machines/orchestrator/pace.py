"""How many devices are in their round at once: the plan's G, raised while the busiest seat idles with all places taken.

Judges by what the nodes' telemetry says of their workers' seconds. It must never go beyond the budgets of the nodes,
nor touch a G that the job chose.
"""

from dataclasses import dataclass

BUSY_SHARE = 0.95
"""Below this share of busy time a seat idles."""

MIN_BUSY_SHARE_GAIN = 0.02
"""A raise that makes the busiest seat busier by no more than this was of no use: something else sets the pace."""

MIN_OBSERVED_S = 3.0
"""Telemetry apart by less than this says too little."""


@dataclass(frozen=True)
class SeatProgress:
    """What a node has said of its seat: seconds since its start, of which busy in this run, and steps made."""

    at: float
    busy_s: float
    steps: int


class Pace:
    """G, as it is and at most may be; told of every telemetry of a seat."""

    def __init__(self, admit: int, most: int) -> None:
        self.admit = admit
        self._most = most
        self._first: dict[str, SeatProgress] = {}
        self._shares: dict[str, float] = {}
        self._before: float | None = None

    def interrupted(self) -> None:
        """A place is free, or the round is ending: what follows is compared with nothing that was before."""
        self._first.clear()
        self._shares.clear()

    def seen(self, seat: str, reading: SeatProgress, seats: int, places: int) -> bool:
        """Take in what one of `seats` seats did while all its `places` were taken; whether G is one more now."""
        first = self._first.setdefault(seat, reading)
        seconds = reading.at - first.at
        # Everyone's batch has passed twice, so that a long one does not look like an idle seat.
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
