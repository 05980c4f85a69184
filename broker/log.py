"""Writes logs to stderr as key=value, one line per event."""

import json
import sys
import time
from collections.abc import Callable, Mapping

Logger = Callable[[str, str, Mapping[str, object]], None]

_ORDER = {"debug": 0, "info": 1, "warning": 2, "error": 3}


def stderr_logger(least: str = "info", **always: object) -> Logger:
    """Return a logger for events of at least level `least`; `always` is added to every line (the role, the id)."""

    def log(level: str, event: str, facts: Mapping[str, object]) -> None:
        if _ORDER[level] >= _ORDER[least]:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            pairs = {"time": stamp, "level": level, **always, "event": event, **facts}
            line = " ".join(f"{key}={_shown(value)}" for key, value in pairs.items())
            print(line, file=sys.stderr, flush=True)

    return log


def _shown(value: object) -> str:
    if isinstance(value, str):
        plain = value and not any(c.isspace() or c in '="' for c in value)
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return ",".join(map(str, value)) or "-"
    return str(value)
