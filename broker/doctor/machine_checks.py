"""This machine: room on the disk, memory, and torch. torch itself is imported in a process of its own, with `deep`."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from broker.doctor.finding import Finding, ok, problem
from mpsl.identity.fleet_member import FleetMember

MIN_DISK_BYTES = 200 * 2**20
MIN_MEMORY_BYTES = 300 * 2**20
"""What a small device peaks at, most of it torch (docs/raspberry-pi.md)."""
SCRATCH = Path("/var/tmp")
"""Where a node keeps what its budget has no room for."""
MEMINFO = Path("/proc/meminfo")
TORCH_S = 120.0
_TRY_TORCH = (
    "import torch; torch.set_num_threads(1); "
    "torch.nn.Conv2d(3, 8, 3)(torch.zeros(2, 3, 16, 16)).sum().backward(); print(torch.__version__)"
)


def check_machine(member: FleetMember | None, deep: bool) -> list[Finding]:
    """Check disk, memory and torch."""
    return [_disk(), _memory(), _torch(member, deep)]


def _disk() -> Finding:
    free = {}
    for folder in (Path.cwd() if _has_directory() else Path("/"), Path(tempfile.gettempdir()), SCRATCH):
        try:
            with tempfile.TemporaryFile(dir=folder):
                free[folder] = shutil.disk_usage(folder).free
        except OSError as error:
            if folder == SCRATCH:
                remedy = "make room or rights there, or name another folder: mpsl node --scratch DIR"
                return problem("disk", f"{folder} cannot be written", str(error.strerror or error), remedy)
    least = min(free, key=lambda folder: free[folder])
    if free[least] < MIN_DISK_BYTES:
        cause = f"{free[least] / 2**20:,.0f} MiB are free, and a run may need {MIN_DISK_BYTES / 2**20:,.0f}"
        return problem("disk", f"{least} is nearly full", cause, "make room there")
    return ok("disk", f"{free[least] / 2**30:,.1f} GiB are free in {least}")


def _has_directory() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _memory() -> Finding:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="utf-8").splitlines() if ":" in line)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return ok("memory", "unknown on this system")
    shown = f"{available / 2**20:,.0f} MiB are available"
    if available < MIN_MEMORY_BYTES:
        cause = f"a small device peaks at {MIN_MEMORY_BYTES / 2**20:,.0f} MiB, most of it torch"
        return problem("memory", shown, cause, "end other programs, or take a larger machine")
    return ok("memory", shown)


def _torch(member: FleetMember | None, deep: bool) -> Finding:
    if member is not None and member.role == "viewer":
        return ok("torch", "not needed by a viewer")
    install = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
    if importlib.util.find_spec("torch") is None:
        return problem("torch", "is not installed", "devices, nodes and orchestrators compute with it", install)
    version = importlib.metadata.version("torch")
    if not deep:
        return ok("torch", f"{version}; --deep tries it")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRY_TORCH], capture_output=True, encoding="utf-8", timeout=TORCH_S, check=False
        )
    except subprocess.TimeoutExpired:
        cause = f"importing it and one step took more than {TORCH_S:.0f} s"
        return problem("torch", f"{version} is too slow", cause, "is the machine busy, or short of memory?")
    if done.returncode < 0:
        cause = f"it was ended by signal {-done.returncode}; 4 is an instruction that this processor does not have"
        return problem("torch", f"{version} does not run", cause, f"take a build for this processor: {install}")
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["(it said nothing)"])[-1]
        return problem("torch", f"{version} does not work", said, install)
    return ok("torch", f"{version} computes")
