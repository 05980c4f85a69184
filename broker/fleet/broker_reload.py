"""Tells a running mosquitto that its files have changed: SIGHUP, to the process that its pid file names.

On SIGHUP mosquitto 2.0 reads access list, certificates and revocation list again. A member that is connected and has
been revoked is not disconnected: it can write and read nothing from then on, and no new connection is accepted.
"""

import os
import signal
from pathlib import Path

from broker.fleet.broker_files import PID

PROGRAM = "mosquitto"


def reload_broker(folder: Path) -> str:
    """Have the mosquitto of this folder read its files again. Returns what was done, or is left to do, in words."""
    pid = running_pid(folder)
    if pid is None:
        return f"no mosquitto of {folder} runs here; where it runs elsewhere, copy the folder there and send it SIGHUP"
    try:
        os.kill(pid, signal.SIGHUP)
    except PermissionError:
        return f"mosquitto (process {pid}) belongs to another user; have it read its files again: sudo kill -HUP {pid}"
    except ProcessLookupError:
        return f"mosquitto (process {pid}) has just ended; it reads the files when it starts"
    return f"mosquitto (process {pid}) reads its files again"


def running_pid(folder: Path) -> int | None:
    """The process of the mosquitto that serves this folder; None where none runs on this machine."""
    try:
        pid = int((folder / PID).read_text(encoding="utf-8"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return pid if name == PROGRAM else None
