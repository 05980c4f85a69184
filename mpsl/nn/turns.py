"""How long the computing thread stays on its core once it has it: asked of Linux's scheduler, by the thread itself.

Several processes that compute on few cores take turns of 3 ms, and each turn begins with the other one's data in the
caches. Turns of a tenth of a second cost that 4 % of a resnet18 back. Threads that only pass messages on keep their
short turns, and by that come first.
"""

import contextlib
import ctypes
import os
import platform
import struct

TURN_S = 0.1
"""The longest that the scheduler grants to an ordinary thread."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "armv7l": 380}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr of sched_setattr(2): its size, policy, flags, nice, priority, runtime in ns, deadline, period."""


def request_long_timeslice() -> None:
    """Ask for turns of TURN_S for the calling thread and those that it starts later.

    Nothing happens where the system is not Linux, is older than 6.12, or was told to schedule us in a way of its own.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or platform.system() != "Linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, int(TURN_S * 1e9), 0, 0)
    with contextlib.suppress(OSError, AttributeError):
        # What goes wrong is left as it was: it costs speed, nothing else.
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)
