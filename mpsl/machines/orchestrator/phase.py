"""The interface of a phase to the orchestrator's machine: it takes events, and returns its outcome after each.

A phase works on the shared `RunState` through its context. It must never import another phase, nor the machine.
"""

from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator_jobs import CheckUpdate
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Message
from mpsl.topics import Address


class Phase:
    """Base of all phases; each overrides what it needs."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.state = context.state

    def enter(self) -> None:
        """The phase begins."""

    def outcome(self) -> RunOutcome | None:
        """Return the outcome of the phase, or None while it goes on."""
        return None

    def take(self, source: str, message: Message) -> None:
        """Take a message that the table allows in this phase."""
        self.context.drop(message, "not in this state")

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """A job of the run has ended."""

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """A job of the run has failed. Returns whether the run can go on."""
        # The check of an update whose device has been left out since.
        return isinstance(job, CheckUpdate)

    def timer_fired(self, name: str) -> None:
        """A timer of the run has fired."""

    def seen(self, presence: Presence) -> None:
        """A participant's status, info or telemetry has changed."""

    def watch(self) -> None:
        """A second has passed."""

    def awaited_seats(self) -> set[Address]:
        """The seats without which the phase cannot end: they must get on within `stall_s`."""
        return set()

    def waiting_for(self) -> list[str]:
        """Return the participants (or things) that the run waits for at this moment."""
        return sorted({self.state.node_at(address) for address in self.state.waiting_seats})
