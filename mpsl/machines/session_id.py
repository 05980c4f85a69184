"""The name of a session: one run under one term in one process. It holds nothing else, so that effects can name it."""

from typing import NamedTuple


class SessionId(NamedTuple):
    """A run and its term; a higher term of the same run replaces the session (Raft, section 5.1)."""

    run: str
    term: int

    def __str__(self) -> str:
        return f"{self.run}@{self.term}"
