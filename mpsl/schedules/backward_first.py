"""Backward before forward: what frees an activation and lets a device step goes before what makes a new one."""

from mpsl.machines.jobs import Backward, Forward, ForwardProbe, WorkerJob
from mpsl.schedules import schedules


@schedules.register("backward-first")
def backward_first(job: WorkerJob) -> int:
    """Copying, folding and committing first: they decide over memory and admission; probes last."""
    match job:
        case Backward():
            return 1
        case Forward():
            return 2
        case ForwardProbe():
            return 3
    return 0
