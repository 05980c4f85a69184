"""What a performer holds for each session: found by the session's id, freed as a whole.

The performers of nodes and devices share these rules. A job never reaches what another session holds. Nothing of an
earlier term stays beside its successor, even if `Leave` has not come yet.
"""

from typing import Generic, TypeVar

from mpsl.machines.session_id import SessionId
from mpsl.nn.allocation import trim_heap

Held = TypeVar("Held")


class HeldSessions(dict[SessionId | None, Held], Generic[Held]):
    """What is held, by session. `owner` is the id of the process, for errors. Only the worker adds and drops."""

    def __init__(self, owner: str) -> None:
        super().__init__()
        self._owner = owner

    def __missing__(self, session: SessionId | None) -> Held:
        raise RuntimeError(f"{self._owner} holds no session {session}: it is not prepared, or has ended")

    def drop(self, session: SessionId | None) -> None:
        """Free what a session and its former terms hold, and return the memory to the system."""
        if self.take_former(session) is not None:
            trim_heap()

    def take_former(self, session: SessionId | None) -> Held | None:
        """Hand over what `session` is about to replace: itself, prepared once more, or the newest former term.

        What lower terms hold is freed.
        """
        former = None
        for each in [each for each in self if _replaces(session, each)]:
            former = self.pop(each)
        return former


def _replaces(new: SessionId | None, old: SessionId | None) -> bool:
    if new is None or old is None:
        return new == old
    return new.run == old.run and new.term >= old.term
