"""The ready work of a compute node, by rank and then by arrival. It chooses the next job and performs nothing."""

import heapq
from dataclasses import dataclass, field

from mpsl.machines.jobs import Backward, CheckCopy, CopyPart, Forward, ForwardProbe, WorkerJob


@dataclass
class ReadyQueue:
    """Holds the ready jobs and the running one."""

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
        """Return the next job, if the worker is free."""
        if self.running is not None or not self._waiting:
            return None
        self.running = heapq.heappop(self._waiting)[2]
        return self.running

    def finish(self) -> None:
        """The running job has ended."""
        if self.running is not None:
            self.tensor_bytes -= _tensor_bytes(self.running)
        self.running = None

    def drop(self, device: str) -> None:
        """Forget what waits for a device."""
        self.tensor_bytes -= sum(_tensor_bytes(job) for _, _, job in self._waiting if _device_of(job) == device)
        self._waiting = [entry for entry in self._waiting if _device_of(entry[2]) != device]
        heapq.heapify(self._waiting)


def _tensor_bytes(job: WorkerJob) -> int:
    return job.tensor.nbytes if isinstance(job, Forward | Backward | ForwardProbe) else 0


def _device_of(job: WorkerJob) -> str | None:
    match job:
        case Forward(ticket) | Backward(ticket):
            return ticket.device
        case CopyPart(device) | CheckCopy(_, device, _):
            return device
    return None
