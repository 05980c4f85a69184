"""Identifiers, and the nearest known name for one that is not known."""

import difflib
import re
from collections.abc import Iterable

from mpsl.errors import UsageError

ORCHESTRATOR = "orch"
"""The one reserved id: the orchestrator's, in topics and as the source of messages."""

BROKER = "broker"
"""What the broker is called where plans and pictures name everyone who takes part."""

_ID = re.compile(r"[a-z0-9-]{1,32}\Z")


def check_id(value: str, where: str) -> str:
    """Return `value` when it can stand in a topic as the id of a device or a node; raise UsageError otherwise."""
    if not _ID.match(value):
        raise UsageError(f"{where}: {value!r} is no id; an id is 1 to 32 of the characters a-z, 0-9 and '-'")
    if value == ORCHESTRATOR:
        raise UsageError(f"{where}: {value!r} is reserved for the orchestrator; choose another id")
    return value


def nearest(name: str, known: Iterable[str]) -> str:
    """A half sentence for an error: the nearest known name, or the list of all where none is near."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {match[0]!r}?" if match else f"known: {', '.join(names)}"
