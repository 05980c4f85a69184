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


_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
LARGE_BYTES = 4 * 2**20
NEVER = 2**31 - 1
"""The largest number that mallopt takes: no block is so large."""


def return_large_at_once() -> None:
    """From now on freed memory of LARGE_BYTES and more goes back to the system at once, where the C library can.

    glibc would learn from the first activations to keep all tensors of up to 32 MB for later, hundreds of MB together.
    The price is that the system clears each anew, some per cent of the time: only a node with a budget does this.
    """
    _set({_M_MMAP_THRESHOLD: LARGE_BYTES})


def keep_for_reuse() -> None:
    """From now on freed memory stays with the process for the next tensor until `give_back`, where the C library can.

    For a node without a budget: clearing pages anew is 6 % of the time of a resnet18 in plain PyTorch. One arena for
    all threads, because those of others cannot hold a tensor of more than 32 MB. To be called before any thread starts.
    """
    _set({_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: NEVER, _M_TRIM_THRESHOLD: NEVER})


def _set(options: dict[int, int]) -> None:
    try:
        library = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            library.mallopt(option, value)
    except (OSError, AttributeError):
        return
