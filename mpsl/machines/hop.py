"""The process of a compute node. What it does in a run is in `hop_session.py`."""

from typing import Any

from mpsl.machines.hop_session import HopSession
from mpsl.machines.participant import Participant
from mpsl.machines.tables.hop import HopState
from mpsl.machines.work_time import WorkTime
from mpsl.plan import Plan
from mpsl.schedules import schedules


class HopMachine(Participant):
    """The process of a compute node: it may serve several runs, each at a seat of its own."""

    branch = "node"
    role = "node"
    max_sessions = 16

    def __init__(self, *arguments: Any, schedule: str = "backward-first", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._rank = schedules.get(schedule)

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan has a seat for this very process."""
        seat = plan.seat_of(self.id)
        return seat is not None and seat.boot == self.boot

    def session_for(self, plan: Plan, links_before: int) -> HopSession:
        """A session of the plan."""
        seat = plan.seat_of(self.id)
        assert seat is not None
        return HopSession(self.identity, plan, seat, self._rank, self.emit, self.max_packet, links_before)

    def idle_progress(self) -> dict[str, Any]:
        """What the telemetry says outside of a run."""
        idle = {"state": HopState.IDLE.value, "seat": None, "copies": 0, "most_copies": 0}
        return {**idle, **WorkTime().facts(self.now), "memory": None}

    def info(self) -> dict[str, Any]:
        """How much of the memory budget no run has been promised, and what each run has."""
        budget = self.described.get("memory_budget")
        if not isinstance(budget, int) or not self.sessions:
            return super().info()
        promised = sum(session.promised_bytes for session in self.sessions.values())
        by_run = {session.id.run: session.promised_bytes for session in self.sessions.values()}
        return {**super().info(), "memory_free": max(0, budget - promised), "promised": by_run}
