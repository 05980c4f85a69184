"""A longer time slice for the thread that computes, requested from the Linux scheduler by the thread itself.

Where several processes compute on few cores, each runs for 3 ms at a time, and finds the caches filled with the data of
another one. Time slices of a tenth of a second recover the 4 % that this costs a resnet18. Threads that only pass
messages on keep their short time slices; the scheduler runs those first.
"""

import contextlib
import ctypes
import os
import platform
import struct

TIMESLICE_S = 0.1
"""The longest that the scheduler grants to an ordinary thread."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380}
"""The number of the system call, by architecture: neither Python nor glibc has a function for it."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr of sched_setattr(2): its size, policy, flags, nice, priority, runtime in ns, deadline, period."""


def request_long_timeslice() -> None:
    """Request time slices of TIMESLICE_S for the calling thread and those that it starts later.

    Nothing happens where the system is not Linux, is older than 6.12, or schedules this thread by another policy.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, int(TIMESLICE_S * 1e9), 0, 0)
    with contextlib.suppress(OSError, AttributeError):
        # A failure leaves everything as it was: it costs speed and nothing else.
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
