"""How the C library keeps the memory of freed tensors: what a process chooses at its start, once.

A node with a budget gives it back at once; one without keeps it, and so does a device while it trains. Whoever measures
for a node does as the node does.
"""

import ctypes
import functools
from collections.abc import Callable

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
LARGE_BYTES = 4 * 2**20
REUSED_BYTES = 8 * 2**20
"""Freed at the end of the heap and kept for what comes next: several chunks, which would be cleared by the system anew
each time they pass; that is half of what a byte on the wire costs.
"""
NEVER = 2**31 - 1
"""The largest number that mallopt takes: no block is so large."""


def return_large_at_once() -> None:
    """From now on freed memory of LARGE_BYTES and more goes back to the system at once, where the C library can.

    glibc would learn from the first activations to keep all tensors of up to 32 MB for later, hundreds of MB together.
    The price is that the system clears each anew, some per cent of the time of a node that only computes. What is
    smaller is used again, up to REUSED_BYTES.
    """
    _set({_M_MMAP_THRESHOLD: LARGE_BYTES, _M_TRIM_THRESHOLD: REUSED_BYTES})


def keep_for_reuse() -> None:
    """From now on freed memory stays with the process for the next tensor until `trim_heap`, where the C library can.

    For a node without a budget: clearing pages anew is 6 % of the time of a resnet18 in plain PyTorch. One arena for
    all threads, because those of others cannot hold a tensor of more than 32 MB. To be called before any thread starts.
    """
    _set({_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: NEVER, _M_TRIM_THRESHOLD: NEVER})


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None where the C library has none."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


def trim_heap() -> None:
    """Return what is free on the heap to the system, where the C library can."""
    trim = _trim()
    if trim is not None:
        trim(0)


def _set(options: dict[int, int]) -> None:
    try:
        library = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            library.mallopt(option, value)
    except (OSError, AttributeError):
        return
