"""The work of a compute node that is ready, by rank and then by arrival. Decides what is next; does nothing."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from mpsl.machines.jobs import Backward, Forward, ForwardProbe, WorkerJob


@dataclass
class ReadyQueue:
    """Work that is ready, and what is being worked on."""

    running: WorkerJob | None = None
    tensor_bytes: int = 0
    """Bytes of the tensors of all waiting jobs and of the running one."""
    _waiting: list[tuple[int, int, WorkerJob]] = field(default_factory=list)
    _count: int = 0

    def add(self, rank: int, job: WorkerJob) -> None:
        """Queue a job behind those of its rank."""
        heapq.heappush(self._waiting, (rank, self._count, job))
        self._count += 1
        self.tensor_bytes += _tensor_bytes(job)

    def take(self) -> WorkerJob | None:
        """The next job, when the worker is free."""
        if self.running is not None or not self._waiting:
            return None
        self.running = heapq.heappop(self._waiting)[2]
        return self.running

    def finish(self) -> None:
        """What was being worked on is done."""
        if self.running is not None:
            self.tensor_bytes -= _tensor_bytes(self.running)
        self.running = None

    def drop(self, unwanted: Callable[[WorkerJob], bool]) -> None:
        """Forget what waits and is not wanted any more."""
        self.tensor_bytes -= sum(_tensor_bytes(job) for _, _, job in self._waiting if unwanted(job))
        self._waiting = [entry for entry in self._waiting if not unwanted(entry[2])]
        heapq.heapify(self._waiting)


def _tensor_bytes(job: WorkerJob) -> int:
    return job.tensor.nbytes if isinstance(job, Forward | Backward | ForwardProbe) else 0
