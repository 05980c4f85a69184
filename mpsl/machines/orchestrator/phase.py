"""What a phase of a run is to the orchestrator's machine: told of events, asked for its outcome after each.

A phase works on the shared `RunState` through its context. It must never import another phase, nor the machine.
"""

from mpsl.errors import IllegalEvent
from mpsl.machines.census import Presence
from mpsl.machines.jobs import CheckUpdate, Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Message


class Phase:
    """Base of all phases; each overrides what concerns it."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self.state = context.state

    def enter(self) -> None:
        """The phase begins."""

    def outcome(self) -> RunOutcome | None:
        """What has come of the phase; None while it goes on."""
        return None

    def take(self, source: str, message: Message) -> None:
        """Take a message that the table allows in this phase."""
        raise IllegalEvent(f"{type(self).__name__} takes no {message.kind}")

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """A job of the run has ended."""

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """A job of the run has raised; whether the run can go on all the same."""
        # The check of an update whose device has been left out meanwhile.
        return isinstance(job, CheckUpdate)

    def timer_fired(self, name: str) -> None:
        """A timer of the run."""

    def seen(self, presence: Presence) -> None:
        """Someone's status, info or telemetry has changed."""

    def watch(self) -> None:
        """A second has passed."""

    def waiting_for(self) -> list[str]:
        """Whom (or what) the run waits for at this moment."""
        return sorted({self.state.node_at(address) for address in self.state.waiting_seats})
