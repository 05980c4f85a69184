"""Handles a full disk or a missing folder: the run pauses, reports which file it cannot write, and retries.

Nothing is lost meanwhile, because every file is written whole or not at all. `patience_s` ends the wait.
"""

from mpsl.machines.events import JobFailed
from mpsl.machines.jobs import WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator_jobs import BuildModel, Checkpoint, LayOut, RecordRound

DISK_TIMER = "disk"
DISK_RETRY_S = 2.0
"""Seconds between two tries."""


class DiskRetry:
    """At most one job at a time waits for the disk: the next one begins once the one before is done."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._waiting: JobFailed | None = None
        self._since = 0.0

    def failed(self, event: JobFailed) -> bool:
        """Handle a job that could not write its file. Returns False if the run must fail."""
        context = self._context
        if not isinstance(event.job, BuildModel | LayOut | Checkpoint | RecordRound):
            return False
        first = self._waiting is None or type(self._waiting.job) is not type(event.job)
        if first:
            self._since = context.now
            patience = context.state.job.fleet.patience_s
            context.log("error", "disk", reason=event.reason, round=context.state.round, patience_s=patience)
        elif context.now - self._since >= context.state.job.fleet.patience_s:
            self._waiting = None
            return False
        self._waiting = event
        context.set_timer(DISK_TIMER, DISK_RETRY_S)
        return True

    def again(self) -> None:
        """Retry the job, unless its term is over."""
        event, context = self._waiting, self._context
        if event is None:
            return
        if event.session is None:
            context.start_run_job(event.job)
        elif context.session is not None and context.session.id == event.session:
            context.start_job(event.job)
        else:
            self._waiting = None

    def done(self, job: WorkerJob) -> None:
        """A job has succeeded."""
        if self._waiting is not None and type(self._waiting.job) is type(job):
            self._waiting = None
            self._context.log("info", "disk-again", seconds=round(self._context.now - self._since, 1))

    def waiting_for(self) -> list[str]:
        """The file that cannot be written."""
        return [f"the disk ({self._waiting.reason})"] if self._waiting is not None else []
