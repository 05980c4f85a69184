"""What this machine is called where times are kept by hardware: the same on every machine of its kind."""

import platform
import re
from pathlib import Path


def hardware_name(board: Path = Path("/proc/device-tree/model"), cpu: Path = Path("/proc/cpuinfo")) -> str:
    """`raspberry-pi-4-model-b-rev-1-4-aarch64`: the board's name, or else the processor's, and the architecture."""
    return "-".join(filter(None, (_slug(_board(board) or _processor(cpu)), _slug(platform.machine()))))


def _board(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _processor(path: Path) -> str:
    try:
        named = re.search(r"(?m)^model name\s*:\s*(.+)$", path.read_text(errors="replace"))
    except OSError:
        named = None
    return named[1] if named else ""


def _slug(text: str) -> str:
    without_marks = re.sub(r"\((r|tm)\)|@.*", "", text.lower())
    return re.sub(r"[^a-z0-9]+", "-", without_marks).strip("-")
