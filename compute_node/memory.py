"""What the system knows of our memory: a budget is kept in resident bytes."""

from pathlib import Path


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
