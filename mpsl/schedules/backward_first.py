"""Backward before forward: a backward frees an activation and lets a device step; a forward adds an activation."""

from mpsl.machines.jobs import Backward, Forward, ForwardProbe, WorkerJob
from mpsl.schedules import schedules


@schedules.register("backward-first")
def backward_first(job: WorkerJob) -> int:
    """Rank copying, folding and committing first, because memory and admission depend on them. Probes go last."""
    match job:
        case Backward():
            return 1
        case Forward():
            return 2
        case ForwardProbe():
            return 3
    return 0
