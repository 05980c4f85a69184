"""What the system knows of our memory, and giving back what is free: a budget is kept in resident bytes."""

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where the C library has none."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


def give_back() -> None:
    """Return what is free on the heap to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Resident memory of this process now; 0 where the system does not say."""
    return _status("VmRSS:")


def most_resident_bytes() -> int:
    """The most that was ever resident; 0 where the system does not say."""
    return _status("VmHWM:")


def _status(key: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)
