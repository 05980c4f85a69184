"""Links in virtual time: whole messages, one after another, at so many bytes a second.

A message takes its sender's way and the broker's at once, as bytes do that pass through: the slower of both sets the
pace, and it is stored and sent on where the broker has all of it.
"""

from collections import deque
from collections.abc import Callable
from math import inf

from mpsl.sim.agenda import Agenda


class Trunk:
    """One direction of the broker's own link, which all share; `bytes_per_s` may be infinite."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def through(self, now: float, size: int) -> float:
        """When `size` bytes that begin now are through, behind those of others."""
        self._free_at = max(now, self._free_at) + size / self._bytes_per_s
        return self._free_at


NO_TRUNK = Trunk(inf)


class Wire:
    """One direction of a process's link to the broker. `busy(label, began, ended)` hears of every message."""

    def __init__(
        self,
        agenda: Agenda,
        bytes_per_s: float,
        latency_s: float,
        trunk: Trunk,
        busy: Callable[[tuple[str, str], float, float], None],
    ) -> None:
        self.latency_s = latency_s
        self._agenda = agenda
        self._bytes_per_s = bytes_per_s
        self._trunk = trunk
        self._busy = busy
        self._waiting: deque[tuple[int, tuple[str, str], Callable[[], None]]] = deque()
        self._sending = False

    def send(self, size: int, label: tuple[str, str], then: Callable[[], None]) -> None:
        """Pass `size` bytes on once all before are through; then, one latency later, call `then`."""
        self._waiting.append((size, label, then))
        if not self._sending:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._sending = False
            return
        self._sending = True
        now = self._agenda.now
        size, label, then = self._waiting.popleft()
        through = max(now + size / self._bytes_per_s, self._trunk.through(now, size))
        self._agenda.at(through, self._through, now, label, then)

    def _through(self, began: float, label: tuple[str, str], then: Callable[[], None]) -> None:
        self._busy(label, began, self._agenda.now)
        self._agenda.at(self._agenda.now + self.latency_s, then)
        self._next()
