"""A longer time slice for the thread that computes, requested from the Linux scheduler by the thread itself.

Where several processes compute on few cores, each runs for 3 ms at a time and finds the caches filled with another
process's data. Time slices of a tenth of a second recover the 4 % that this costs a resnet18. Threads that only pass on
messages keep their short time slices, and the scheduler runs them first.
"""

import contextlib
import ctypes
import os
import platform
import struct

TIMESLICE_S = 0.1
"""The longest time slice that the scheduler grants to an ordinary thread."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380}
"""The number of the system call by architecture. Neither Python nor glibc has a function for it."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr of sched_setattr(2): size, policy, flags, nice, priority, runtime in ns, deadline, period."""


def request_long_timeslice() -> None:
    """Request time slices of TIMESLICE_S for the calling thread and for threads that it starts later.

    Does nothing if the system is not Linux or is older than 6.12, or if this thread has another scheduling policy.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, int(TIMESLICE_S * 1e9), 0, 0)
    with contextlib.suppress(OSError, AttributeError):
        # A failure changes nothing; it only costs speed.
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
