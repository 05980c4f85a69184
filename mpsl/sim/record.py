"""What a rehearsal sees happen: who was busy with what, what was under way, what the nodes held; round by round.

Takes virtual times and keeps seconds of the system that is rehearsed, counted from the opening of the first round.
"""

from dataclasses import dataclass, field

COMPUTE, WIRE_CPU, UP, DOWN = "compute", "wire CPU", "up", "down"
"""Lanes: what of a process a span keeps busy; up and down are the directions of its link to the broker."""


@dataclass(frozen=True)
class Span:
    """`lane` of `process` is busy with `what` (for `device`, where it is for one) from `began` to `ended`."""

    process: str
    lane: str
    what: str
    device: str
    began: float
    ended: float


@dataclass
class Round:
    """One round: when it was opened, and how long it took until its checkpoint was saved."""

    opened: float
    seconds: float | None = None


@dataclass
class Record:
    """`pace`: virtual seconds for each second of the system. Spans are kept one by one where `keep` says so."""

    pace: float
    keep: bool = False
    rounds: list[Round] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    busy_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds within rounds, by process and lane."""
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    """(time, bytes that have left a sender and not yet reached their receiver), at every change."""
    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    """(time, bytes held) of every node, at every change."""
    _origin: float | None = None
    _under_way: int = 0

    def opened(self, now: float) -> None:
        """A round has been opened."""
        if self._origin is None:
            self._origin = now
            self.in_flight.append((0.0, self._under_way))
        self.rounds.append(Round(self._time(now)))

    def saved(self, now: float) -> None:
        """The checkpoint of the round is saved."""
        self.rounds[-1].seconds = self._time(now) - self.rounds[-1].opened

    def span(self, process: str, lane: str, label: tuple[str, str], began: float, ended: float) -> None:
        """A lane was busy with `label` = (what, device); counted where a round is open."""
        if not self.rounds or self.rounds[-1].seconds is not None:
            return
        first, last = max(self._time(began), self.rounds[-1].opened), self._time(ended)
        self.busy_s[process, lane] = self.busy_s.get((process, lane), 0.0) + last - first
        if self.keep:
            self.spans.append(Span(process, lane, *label, first, last))

    def under_way(self, change: int, now: float) -> None:
        """So many more bytes (or less) are on their way."""
        self._under_way += change
        if self._origin is not None:
            self.in_flight.append((self._time(now), self._under_way))

    def holds(self, node: str, size: int, now: float) -> None:
        """A node holds `size` bytes from now on; what it held before the first round counts as held at its opening."""
        held = self.memory.setdefault(node, [])
        if self._origin is None:
            held[:] = [(0.0, size)]
        else:
            held.append((self._time(now), size))

    def _time(self, virtual: float) -> float:
        assert self._origin is not None
        return (virtual - self._origin) / self.pace
