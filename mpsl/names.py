"""Identifiers, and the nearest known name for one that is not known."""

import difflib
import re
from collections.abc import Iterable

from mpsl.errors import UsageError

ORCHESTRATOR = "orch"
"""The one reserved id: the orchestrator's, in topics and as the source of messages."""

BROKER = "broker"
"""The broker's name in plans and pictures."""

MAX_ID = 32
"""The maximum length of an id, in characters."""
_ID = re.compile(rf"[a-z0-9-]{{1,{MAX_ID}}}\Z")


def check_id(value: str, where: str) -> str:
    """Return `value` if it can be the id of a device or a node in a topic. Raises UsageError otherwise."""
    if not _ID.match(value):
        raise UsageError(f"{where}: {value!r} is not an id; an id is 1 to 32 of the characters a-z, 0-9 and '-'")
    if value == ORCHESTRATOR:
        raise UsageError(f"{where}: {value!r} is reserved for the orchestrator; choose another id")
    return value


MAX_LISTED = 24
"""If there are more known names than this, an error lists them only if none is near."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return half a sentence for an error: the nearest known name, if one is near, and all known names."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = f"known: {', '.join(names)}"
    if not match:
        return listed
    meant = f"did you mean {match[0]!r}?"
    return f"{meant} {listed}" if len(names) <= MAX_LISTED else meant
