"""Ties a process to its parent: `tether.py PARENT USER COMMAND…` becomes COMMAND, which is killed when PARENT ends.

It uses the standard library only and is run by path, so it costs a few milliseconds and no extra process. The kernel
sends the signal when the *thread* that started this process ends; that thread runs the owning event loop, as intended.
The signal is reset when a process changes its user, so the user is changed here, first. Never import the project from
here.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become argv[3:], as user argv[2] ("" keeps the present one), killed when process argv[1] ends."""
    parent, user, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if user:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent process has already ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
