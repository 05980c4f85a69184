"""How long the orchestrator waits for someone: longer where bytes are on their way over a slow link.

What is on its way is about two seconds of a link (`mpsl/link/rate.py`), so that whoever is dead is noticed as soon as
on a fast link; never is the wait more than twice as long. Whoever brings or acknowledges something new is at work.
It decides nothing.
"""

from mpsl.machines.census import STALE_S, Presence
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.context import RunContext
from mpsl.topics import Address


class Patience:
    """The deadlines of one run."""

    def __init__(self, context: RunContext) -> None:
        self._context = context

    def allowance_s(self, seconds: float, *addresses: Address) -> float:
        """The time that what is in flight to the slowest of these takes: at most `seconds`, as the deadline itself."""
        session = self._context.session
        if session is None:
            return 0.0
        return min(seconds, max(map(session.channel.seconds_under_way, addresses), default=0.0))

    def is_over(self, since: float, seconds: float, *addresses: Address) -> bool:
        """Whether `seconds` have passed since then, and the allowance of these addresses."""
        over_s = self._context.now - since - seconds
        return over_s > 0 and over_s > self.allowance_s(seconds, *addresses)

    def is_silent(self, presence: Presence, address: Address) -> bool:
        """Whether someone who is waited for gives no sign of life, or has gone."""
        now = self._context.now
        if not presence.online:
            return presence.gone(now)
        return not presence.alive(now) and not presence.alive(now, self.allowance_s(STALE_S, address))

    def progress_at(self, member: Member) -> float:
        """When a device last got on: by its telemetry, or by what it brought or acknowledged on our link."""
        session = self._context.session
        brought_at = 0.0 if session is None else session.channel.progress_at.get(member.id, 0.0)
        return max(member.progress_at, brought_at)
