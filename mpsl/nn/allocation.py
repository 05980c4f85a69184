"""Controls what the C library does with the memory of freed tensors. A process chooses once, when it starts.

A node with a memory budget returns freed memory at once. A node without one keeps it, and so does a device while it
trains. A process that measures for a node makes the node's choice.
"""

import ctypes
import functools
from collections.abc import Callable

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
LARGE_BYTES = 4 * 2**20
REUSED_BYTES = 8 * 2**20
"""Free bytes at the end of the heap that are kept for reuse. They hold several chunks.

Without them the system would clear the memory of each chunk again, which is half of the cost of a byte on the wire.
"""
MAX_MALLOPT = 2**31 - 1
"""The largest number that mallopt takes. No block is that large."""


def return_large_at_once() -> None:
    """Return freed blocks of LARGE_BYTES and more to the system at once, where the C library supports it.

    By default, glibc learns from the first activations to keep all tensors of up to 32 MB, which adds up to hundreds of
    MB. The system then clears each new block, which costs a node that only computes some per cent of its time. Smaller
    blocks are reused, up to REUSED_BYTES.
    """
    _set({_M_MMAP_THRESHOLD: LARGE_BYTES, _M_TRIM_THRESHOLD: REUSED_BYTES})


def keep_for_reuse() -> None:
    """Keep freed memory in the process until `trim_heap`, where the C library supports it.

    This is for nodes without a budget: clearing pages takes 6 % of the time of a resnet18 in plain PyTorch. All threads
    share one arena, because the arenas of further threads cannot hold a tensor of more than 32 MB. Call it before any
    thread starts.
    """
    _set({_M_ARENA_MAX: 1, _M_MMAP_THRESHOLD: MAX_MALLOPT, _M_TRIM_THRESHOLD: MAX_MALLOPT})


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim, or None where the C library has none."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


def trim_heap() -> None:
    """Return the free memory of the heap to the system, where the C library supports it."""
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
