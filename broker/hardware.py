"""Describes the machine that a process runs on, and names the folder for measurements made there."""

import os
import platform
import re
import socket
from pathlib import Path
from typing import Any


def machine_info(threads: int, kernel: Path = Path("/proc/sys/kernel/random/boot_id")) -> dict[str, Any]:
    """Return for `info`: hardware (equal on machines of a kind), host (equal if cores are shared), cores, threads."""
    try:
        # All containers of a machine share it and, unlike a host name, two machines never do.
        host = kernel.read_text(encoding="utf-8").strip()[:13]
    except OSError:
        host = socket.gethostname()
    return {"hardware": hardware_name(), "host": host, "cores": os.cpu_count() or 1, "threads": threads}


def usable_cores() -> int:
    """Return the number of cores that this process may use, which its affinity may restrict."""
    # Only Linux has affinity masks.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_directory() -> Path | None:
    """Return the folder for measured times: $XDG_CACHE_HOME/mpsl/profiles, by default under ~/.cache.

    None for a user without a home: $HOME is not set, and the system does not know the user (a container's number).
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(home) if home.startswith("/") else Path.home() / ".cache") / "mpsl" / "profiles"
    except RuntimeError:
        return None


def hardware_name(board: Path = Path("/proc/device-tree/model"), cpu: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the board, or else of the processor, with the architecture.

    For example `raspberry-pi-4-model-b-rev-1-4-aarch64`.
    """
    return "-".join(filter(None, (_slug(_board(board) or _processor(cpu)), _slug(platform.machine()))))


def _board(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _processor(path: Path) -> str:
    try:
        named = re.search(r"(?m)^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        named = None
    return named[1] if named else ""


def _slug(text: str) -> str:
    without_marks = re.sub(r"\((r|tm)\)|@.*", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", without_marks).strip("-")
