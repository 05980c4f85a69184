"""The end of a run, good or bad: the summary is written, everyone hears of it, the retained topics are cleared."""

from typing import TYPE_CHECKING, Literal

from mpsl.machines.effects import CancelTimer, Run, SetTimer, Stop
from mpsl.machines.jobs import Finish
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.machines.orchestrator.status_publisher import MAX_REASON
from mpsl.messages import End

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

FAREWELL_S = 5.0
"""How long everyone has to acknowledge the end."""


class Ending:
    """Stops the machine once the summary is written and everyone has heard, or has had the time to."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._farewell_over = False
        self.summary_written = False

    def fail(self, reason: str) -> None:
        """The run cannot go on; the first reason stands."""
        machine = self._machine
        if machine.state is not S.ENDING:
            machine.log("error", "failed", run=machine.run, round=machine.round, reason=reason)
            self.end("failed", reason)

    def end(self, state: Literal["done", "failed"], reason: str) -> None:
        """Write the summary and tell everyone."""
        machine = self._machine
        machine.state = S.ENDING
        for timer in ("start", "round", "report"):
            machine.do(CancelTimer(timer))
        machine.profiling.links.abandon()
        started_at = machine.gathering.started_at
        seconds = 0.0 if started_at is None else machine.now - started_at
        machine.summary |= {"state": state, "reason": reason, "seconds": seconds}
        machine.do(Run(Finish(machine.summary)))
        # For those who do not get their `End` in time: the plan is cleared right after it.
        machine.status_publisher.publish(force=True)
        if machine.plan is not None:
            online = {id for id in machine.members if (p := machine.census.get("dev", id)) and p.online}
            for address in [*machine.seats, *sorted(online)]:
                machine.send(address, End(state, reason[:MAX_REASON]))
        machine.do(SetTimer("farewell", machine.now + (FAREWELL_S if machine.online else 0.0)))

    def over(self) -> None:
        """Nobody is waited for any longer."""
        self._farewell_over = True

    def quit_if_heard(self) -> None:
        """Stop where the end has been heard and written."""
        machine = self._machine
        if machine.state is not S.ENDING or not self.summary_written or machine.stopped:
            return
        if self._farewell_over or machine.channel is None or machine.channel.idle:
            if machine.online:
                machine.publish("plan", None, retain=True)
                machine.publish("state", None, retain=True)
            status = 0 if machine.summary["state"] == "done" else 1
            machine.do(Stop(status, str(machine.summary["reason"])))
            machine.stopped = True
