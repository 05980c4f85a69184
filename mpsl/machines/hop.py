"""The process of a compute node. What it does in a run is in `hop_session.py`."""

from typing import Any

from mpsl.machines.hop_session import HopSession
from mpsl.machines.participant import Participant
from mpsl.machines.tables.hop import HopState
from mpsl.machines.work_time import WorkTime
from mpsl.plan import Plan
from mpsl.schedules import schedules


class HopMachine(Participant):
    """The process of a compute node, which may serve several runs, each at its own seat."""

    branch = "node"
    role = "node"
    max_sessions = 16

    def __init__(self, *arguments: Any, schedule: str = "backward-first", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._rank = schedules.get(schedule)

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan names this process, by id and boot."""
        seat = plan.seat_of(self.id)
        return seat is not None and seat.boot == self.boot

    def session_for(self, plan: Plan, links_before: int) -> HopSession:
        """Make a session for the plan."""
        seat = plan.seat_of(self.id)
        assert seat is not None
        return HopSession(self.identity, plan, seat, self._rank, self.emit, self.max_packet, links_before)

    def idle_progress(self) -> dict[str, Any]:
        """Return the telemetry fields of a process outside of a run."""
        idle = {"state": HopState.IDLE.value, "seat": None, "copies": 0, "most_copies": 0}
        return {**idle, **WorkTime().facts(self.now), "memory": None}

    def info(self) -> dict[str, Any]:
        """Report the bytes of the memory budget that are promised to each run, and the rest."""
        budget = self.described.get("memory_budget")
        if not isinstance(budget, int) or not self.sessions:
            return super().info()
        promised = sum(session.promised_bytes for session in self.sessions.values())
        by_run = {session.id.run: session.promised_bytes for session in self.sessions.values()}
        return {**super().info(), "memory_free": max(0, budget - promised), "promised": by_run}
