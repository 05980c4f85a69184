"""Gives freed memory back to the system: a budget is kept in resident bytes, not in what the allocator calls free."""

import ctypes
import functools
from collections.abc import Callable


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
