"""The memory of a compute node by use, with peaks, for telemetry and the benchmarks.

Each object reports its own size. The system's figures for the whole process are reported beside them.
"""

from collections.abc import Iterable
from pathlib import Path

from compute_node.storage import Storage
from mpsl.nn.training_copy import TrainingCopy


class MemoryPeaks:
    """The peak bytes of each use in one session. Queues do not count, because they belong to the machine.

    `base_bytes`: resident memory of the process before its first session.
    """

    def __init__(self, base_bytes: int) -> None:
        self._peaks = {"base": base_bytes}

    def update(self, committed: Storage, frozen: Storage, total: Storage, copies: Iterable[TrainingCopy]) -> None:
        """Raise the peaks to what is used now."""
        alive = list(copies)
        # One backward runs at a time, so only its copy has had more gradients than it has now.
        backward = max((copy.peak_gradient_bytes - copy.gradient_bytes() for copy in alive), default=0)
        now = {
            "global": committed.resident_bytes + frozen.resident_bytes,
            "accumulator": total.resident_bytes,
            "copies": len(alive) * committed.nbytes,
            "optimizer": sum(copy.optimizer_bytes() for copy in alive),
            "gradients": sum(copy.gradient_bytes() for copy in alive) + max(0, backward),
            "activations": sum(copy.activation_bytes() for copy in alive),
        }
        for use, size in now.items():
            self.note(use, size)

    def note(self, use: str, size: int) -> None:
        """Raise the peak of a use to `size` bytes."""
        self._peaks[use] = max(size, self._peaks.get(use, 0))

    def report(self) -> dict[str, int]:
        """Return the session's peak bytes by use, and `base` and `resident` of the whole process with all sessions."""
        # Linux counts pages in portions and updates its own peak only now and then: it can be lower than a reading.
        return {**self._peaks, "resident": max(peak_resident_bytes(), self._peaks["base"])}


def resident_bytes() -> int:
    """Return the resident memory of this process, which a budget limits; 0 where the system does not report it."""
    return _status("VmRSS:")


def peak_resident_bytes() -> int:
    """Return the peak of this process's resident memory; 0 where the system does not report it."""
    return _status("VmHWM:")


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
