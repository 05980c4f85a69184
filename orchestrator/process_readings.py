"""Reads the CPU seconds by thread, the memory and the open files of a process from /proc (Linux)."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuSeconds:
    """The CPU seconds of a process so far: of the first thread (the event loop) and of all others (the worker)."""

    loop_s: float
    worker_s: float

    def __sub__(self, before: "CpuSeconds") -> "CpuSeconds":
        return CpuSeconds(self.loop_s - before.loop_s, self.worker_s - before.worker_s)

    @property
    def total_s(self) -> float:
        """CPU seconds of the whole process."""
        return self.loop_s + self.worker_s


def read_process(pid: int) -> CpuSeconds:
    """Return the CPU seconds of a process; zeros for one that has ended."""
    loop = others = 0.0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) * _TICK_S
            if task.name == str(pid):
                loop = seconds
            else:
                others += seconds
    except OSError:
        return CpuSeconds(0.0, 0.0)
    return CpuSeconds(loop, others)


def peak_resident(pid: int) -> int:
    """Return the peak resident memory of a process, in bytes (VmHWM); 0 for one that has ended."""
    return _status_bytes(pid, "VmHWM:")


def resident(pid: int) -> int:
    """Return the resident memory of a process, in bytes (VmRSS); 0 for one that has ended."""
    return _status_bytes(pid, "VmRSS:")


def open_files(pid: int) -> int:
    """Return the number of open files of a process, sockets included; 0 for one that has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _status_bytes(pid: int, key: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0
