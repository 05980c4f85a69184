"""Processors in virtual time: the tasks of one computer share its cores as under a fair scheduler.

If more threads are runnable than there are cores, all of them slow down equally. A `SimulatedWorker` runs one task at
a time.
"""

import heapq
from collections import deque
from collections.abc import Callable
from math import inf

from mpsl.sim.event_queue import EventQueue

Then = Callable[[], None]


class Cores:
    """`count` cores for any number of tasks; if `count` is infinite, no task ever waits."""

    def __init__(self, queue: EventQueue, count: float = inf) -> None:
        self._queue = queue
        self._count = count
        self._runnable = 0
        """Threads of all running tasks."""
        self._served = 0.0
        """CPU seconds that a thread would have received, had it run since the start (virtual time of fair queueing)."""
        self._updated_at = 0.0
        self._tasks: list[tuple[float, int, int, Then]] = []
        """Heap of (value of `_served` at which the task ends, task number, threads, callback)."""
        self._started = 0
        self._version = 0

    def run(self, threads: int, seconds: float, then: Then) -> None:
        """Compute for `seconds` on `threads` cores, longer if cores are shared; then call `then`."""
        if self._count == inf:
            self._queue.at(self._queue.now + seconds, then)
            return
        self._update()
        self._started += 1
        self._runnable += threads
        heapq.heappush(self._tasks, (self._served + seconds, self._started, threads, then))
        self._schedule()

    def _update(self) -> None:
        """Bring `_served` up to date."""
        now = self._queue.now
        if self._runnable:
            self._served += (now - self._updated_at) * self._share()
        self._updated_at = now

    def _share(self) -> float:
        return min(1.0, self._count / self._runnable)

    def _schedule(self) -> None:
        """Schedule the end of the first task; a task that starts or ends before then makes this end invalid."""
        self._version += 1
        if self._tasks:
            left = max(0.0, self._tasks[0][0] - self._served) / self._share()
            self._queue.at(self._queue.now + left, self._finish, self._version)

    def _finish(self, version: int) -> None:
        if version != self._version:
            return
        self._update()
        self._served = max(self._served, self._tasks[0][0])
        _, _, threads, then = heapq.heappop(self._tasks)
        self._runnable -= threads
        self._schedule()
        then()


class SimulatedWorker:
    """One thread of a process, or `threads` that always work together. It runs tasks one at a time, in order."""

    def __init__(self, queue: EventQueue, cores: Cores, threads: int = 1) -> None:
        self._queue = queue
        self._cores = cores
        self._threads = threads
        self._waiting: deque[tuple[float, Callable[[float], None]]] = deque()
        self._started_at: float | None = None

    def run(self, seconds: float, then: Callable[[float], None]) -> None:
        """Work for `seconds` once all earlier tasks are done; then call `then` with the time at which it started."""
        self._waiting.append((seconds, then))
        if self._started_at is None:
            self._next()

    def _next(self) -> None:
        if self._waiting:
            self._started_at = self._queue.now
            self._cores.run(self._threads, self._waiting[0][0], self._finish)

    def _finish(self) -> None:
        _, then = self._waiting.popleft()
        started_at, self._started_at = self._started_at, None
        assert started_at is not None
        # The next task starts before the callback of this one can add more.
        self._next()
        then(started_at)
