"""Ending, after success or failure: writes the summary, tells all participants, clears the retained topics."""

from mpsl.machines.effects import Stop
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator_jobs import Finish
from mpsl.messages import End

FAREWELL_S = 5.0
"""How long the participants have to acknowledge the end."""
MAX_REASON = 1000


class Ending(Phase):
    """Stops the machine once the summary is written and all have acknowledged the end, or FAREWELL_S is over."""

    _summary_written = False
    _farewell_over = False

    def enter(self) -> None:
        """Write the summary and tell all participants."""
        state, context = self.state, self.context
        for timer in ("start", "round", "report", "profiling", "patience", "quorum", "disk"):
            context.cancel_timer(timer)
        if state.failure:
            context.log("error", "failed", round=state.round, reason=state.failure)
        seconds = 0.0 if state.started_at is None else context.now - state.started_at
        outcome = "failed" if state.failure else "done"
        state.summary |= {"state": outcome, "reason": state.failure, "seconds": seconds}
        context.start_run_job(Finish(state.summary))
        if context.session is not None:
            online = {id for id in state.members if (p := context.census.get("dev", id)) and p.online}
            for address in [*state.seats, *sorted(online)]:
                context.send(address, End("failed" if state.failure else "done", state.failure[:MAX_REASON]))
        context.set_timer("farewell", FAREWELL_S if context.online else 0.0)

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The summary is written."""
        self._summary_written = self._summary_written or isinstance(job, Finish)

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """The summary cannot be written: log it, and end nevertheless."""
        if isinstance(job, Finish):
            self.context.log("error", "summary-not-written", reason=reason)
            self._summary_written = True
        return True

    def timer_fired(self, name: str) -> None:
        """The time for acknowledgements is over."""
        self._farewell_over = self._farewell_over or name in ("farewell", "broker")

    def waiting_for(self) -> list[str]:
        """Return the participants that have not acknowledged the end."""
        session = self.context.session
        return [] if session is None else [self.state.node_at(address) for address in session.channel.waiting_for()]

    def goodbye(self) -> Stop | None:
        """Return the machine's stop, or None while the summary or an acknowledgement is missing."""
        context = self.context
        heard = self._farewell_over or context.session is None or context.session.channel.idle
        if not self._summary_written or not heard:
            return None
        if context.online:
            context.publish("plan", None, retain=True)
            context.publish("state", None, retain=True)
        return Stop(0 if self.state.summary["state"] == "done" else 1, str(self.state.summary["reason"]))
