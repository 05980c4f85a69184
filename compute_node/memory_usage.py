"""How many bytes of this node are used for what, and the peak of each: what telemetry and the benchmarks report.

The sizes are what the objects say of themselves; what the system says of the whole process stands beside them.
"""

from collections.abc import Iterable
from pathlib import Path

from compute_node.storage import Storage
from mpsl.nn.training_copy import TrainingCopy


class MemoryPeaks:
    """The peak bytes of each use in one session. Queues are not among them: they belong to the machine.

    `base_bytes`: resident memory of the process before it held any session.
    """

    def __init__(self, base_bytes: int) -> None:
        self._peaks = {"base": base_bytes}

    def update(self, committed: Storage, total: Storage, copies: Iterable[TrainingCopy]) -> None:
        """Raise the peaks to what is used now."""
        alive = list(copies)
        # One backward runs at a time: only its copy has had more gradients than it has now.
        backward = max((copy.peak_gradient_bytes - copy.gradient_bytes() for copy in alive), default=0)
        now = {
            "global": committed.resident_bytes,
            "accumulator": total.resident_bytes,
            "copies": len(alive) * committed.nbytes,
            "optimizer": sum(copy.optimizer_bytes() for copy in alive),
            "gradients": sum(copy.gradient_bytes() for copy in alive) + max(0, backward),
            "activations": sum(copy.activation_bytes() for copy in alive),
        }
        for use, size in now.items():
            self._peaks[use] = max(size, self._peaks.get(use, 0))

    def report(self) -> dict[str, int]:
        """Peak bytes of the session by use; of the whole process `base`, and `resident` with all its sessions."""
        # Linux adds pages up in portions and updates its own peak only now and then: it can be below what was read.
        return {**self._peaks, "resident": max(peak_resident_bytes(), self._peaks["base"])}


def resident_bytes() -> int:
    """Resident memory of this process now, which is what a budget limits; 0 where the system does not say."""
    return _status("VmRSS:")


def peak_resident_bytes() -> int:
    """The peak of this process's resident memory; 0 where the system does not say."""
    return _status("VmHWM:")


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
