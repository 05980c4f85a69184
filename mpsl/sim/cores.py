"""Processors in virtual time: what runs at once on a machine shares its cores, as a fair scheduler lets it.

Where more threads want to run than there are cores, all go slower alike. A `Worker` does one thing after another.
"""

import heapq
from collections import deque
from collections.abc import Callable
from math import inf

from mpsl.sim.agenda import Agenda

Then = Callable[[], None]


class Cores:
    """`count` cores (infinite: nobody ever waits) for any number of tasks."""

    def __init__(self, agenda: Agenda, count: float = inf) -> None:
        self._agenda = agenda
        self._count = count
        self._wanted = 0
        """Threads of all tasks that run."""
        self._served = 0.0
        """Seconds that each running thread would have been served since the beginning, had it always run."""
        self._looked_at = 0.0
        self._tasks: list[tuple[float, int, int, Then]] = []
        """By how far `served` will have come when they are done: that, their number, threads, what follows."""
        self._begun = 0
        self._version = 0

    def run(self, threads: int, seconds: float, then: Then) -> None:
        """Compute for `seconds` with `threads` cores of one's own, longer where they are shared; then call `then`."""
        if self._count == inf:
            self._agenda.at(self._agenda.now + seconds, then)
            return
        self._look()
        self._begun += 1
        self._wanted += threads
        heapq.heappush(self._tasks, (self._served + seconds, self._begun, threads, then))
        self._appoint()

    def _look(self) -> None:
        """What has been served up to now."""
        now = self._agenda.now
        if self._wanted:
            self._served += (now - self._looked_at) * self._share()
        self._looked_at = now

    def _share(self) -> float:
        return min(1.0, self._count / self._wanted)

    def _appoint(self) -> None:
        """Look again when the first task is done, unless another one begins or ends before."""
        self._version += 1
        if self._tasks:
            left = max(0.0, self._tasks[0][0] - self._served) / self._share()
            self._agenda.at(self._agenda.now + left, self._done, self._version)

    def _done(self, version: int) -> None:
        if version != self._version:
            return
        self._look()
        self._served = max(self._served, self._tasks[0][0])
        _, _, threads, then = heapq.heappop(self._tasks)
        self._wanted -= threads
        self._appoint()
        then()


class Worker:
    """One thread of a process (or `threads` that always work together): one thing after another, in order."""

    def __init__(self, agenda: Agenda, cores: Cores, threads: int = 1) -> None:
        self._agenda = agenda
        self._cores = cores
        self._threads = threads
        self._waiting: deque[tuple[float, Callable[[float], None]]] = deque()
        self._began: float | None = None

    def run(self, seconds: float, then: Callable[[float], None]) -> None:
        """Work for `seconds` once all before is done; then call `then` with the time at which it began."""
        self._waiting.append((seconds, then))
        if self._began is None:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            self._began = self._agenda.now
            self._cores.run(self._threads, self._waiting[0][0], self._ended)

    def _ended(self) -> None:
        _, then = self._waiting.popleft()
        began, self._began = self._began, None
        assert began is not None
        # The next one begins before what follows from this one can ask for more.
        self._next()
        then(began)
