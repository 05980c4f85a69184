"""The course of a rehearsal, round by round: busy resources, bytes in flight, memory of the nodes.

It takes virtual times and keeps seconds of the rehearsed system, counted from the opening of the first round.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

COMPUTE, WIRE_CPU, UP, DOWN = "compute", "wire CPU", "up", "down"
"""Lanes: the resources of a process; up and down are the directions of its link to the broker."""


@dataclass(frozen=True)
class Span:
    """`lane` of `process` is busy with `what` (for `device`, if it is for one) from `start` to `end`."""

    process: str
    lane: str
    what: str
    device: str
    start: float
    end: float


@dataclass
class Round:
    """One round: when it was opened, and how long it took until its checkpoint was saved."""

    opened: float
    seconds: float | None = None


@dataclass
class Timeline:
    """`pace`: virtual seconds for each second of the system. `keep`: spans are kept one by one."""

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
    _in_transit: int = 0

    def open_round(self, now: float) -> None:
        """A round has been opened."""
        if self._origin is None:
            self._origin = now
            self.in_flight.append((0.0, self._in_transit))
        self.rounds.append(Round(self._time(now)))

    def close_round(self, now: float) -> None:
        """The checkpoint of the round has been saved."""
        self.rounds[-1].seconds = self._time(now) - self.rounds[-1].opened

    def span(self, process: str, lane: str, label: tuple[str, str], start: float, end: float) -> None:
        """A lane was busy with `label` = (what, device); counted if a round is open."""
        if not self.rounds or self.rounds[-1].seconds is not None:
            return
        first, last = max(self._time(start), self.rounds[-1].opened), self._time(end)
        self.busy_s[process, lane] = self.busy_s.get((process, lane), 0.0) + last - first
        if self.keep:
            self.spans.append(Span(process, lane, *label, first, last))

    def transit(self, change: int, now: float) -> None:
        """The bytes in flight change by `change`."""
        self._in_transit += change
        if self._origin is not None:
            self.in_flight.append((self._time(now), self._in_transit))

    def memory_changed(self, node: str, size: int, now: float) -> None:
        """A node holds `size` bytes from now on; before the first round only the last value counts."""
        held = self.memory.setdefault(node, [])
        if self._origin is None:
            held[:] = [(0.0, size)]
        else:
            held.append((self._time(now), size))

    def slowest_first(self, devices: Iterable[str]) -> list[str]:
        """Return the devices, those with the longest time from first to last span in the first round first."""
        inside: dict[str, tuple[float, float]] = {}
        for span in self.spans:
            if span.start < (self.rounds[0].seconds or 0.0):
                began, ended = inside.get(span.process, (span.start, span.end))
                inside[span.process] = (min(began, span.start), max(ended, span.end))
        seconds = {process: ended - began for process, (began, ended) in inside.items()}
        return sorted(devices, key=lambda device: -seconds.get(device, 0.0))

    def _time(self, virtual: float) -> float:
        assert self._origin is not None
        return (virtual - self._origin) / self.pace
