"""How long the orchestrator waits for a participant: longer while bytes are in flight over a slow link.

Bytes in flight last about two seconds on any link (`mpsl/link/rate.py`), so a dead participant is noticed nearly as
soon as on a fast link. The wait is never more than twice as long. A participant that sends or acknowledges something
new is making progress. Nothing is decided here.
"""

from mpsl.machines.census import Presence
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.context import RunContext
from mpsl.topics import Address


class Patience:
    """The deadlines of one run."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def allowance_s(self, seconds: float, *addresses: Address) -> float:
        """Return the seconds that the bytes in flight to the slowest of these addresses take, at most `seconds`."""
        session = self._context.session
        if session is None:
            return 0.0
        return min(seconds, max(map(session.channel.seconds_under_way, addresses), default=0.0))

    def is_over(self, since: float, seconds: float, *addresses: Address) -> bool:
        """Whether `seconds` and the allowance of these addresses have passed since `since`."""
        over_s = self._context.now - since - seconds
        return over_s > 0 and over_s > self.allowance_s(seconds, *addresses)

    def is_silent(self, presence: Presence, address: Address) -> bool:
        """Whether a participant has stopped, or its last sign of life is too old."""
        now = self._context.now
        if not presence.online:
            return presence.gone(now)
        return not presence.alive(now) and not presence.alive(now, self.allowance_s(presence.silence_s, address))

    def progress_at(self, member: Member) -> float:
        """When a device last made progress, according to its telemetry or to its link."""
        session = self._context.session
        brought_at = 0.0 if session is None else session.channel.progress_at.get(member.id, 0.0)
        return max(member.progress_at, brought_at)
