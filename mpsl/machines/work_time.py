"""How long a hop's worker has worked: in its run, and between the first and the last batch of a round.

Busy is from the moment that the worker is asked for a job until it is heard to be done. What the jobs are for it must
never know, but for the first one of a round.
"""

from typing import Any

from mpsl.machines.jobs import Forward, WorkerJob


class WorkTime:
    """Of one run; told when the worker begins and ends a job, and of every step."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._since: float | None = None
        self._steps = 0
        self._stepped_at = 0.0
        self._round = 0
        self._began_at = 0.0
        self._busy_before = 0.0
        self._batches_busy_s = 0.0

    def begins(self, job: WorkerJob, now: float) -> None:
        """The worker is asked for a job; the first forward of a round begins its batches."""
        self._since = now
        if isinstance(job, Forward) and job.ticket.round > self._round:
            self._round = job.ticket.round
            self._began_at, self._busy_before, self._batches_busy_s = now, self._busy_s, 0.0

    def ends(self, now: float) -> None:
        """The worker is free."""
        if self._since is not None:
            self._busy_s += now - self._since
            self._since = None

    def stepped(self, now: float) -> None:
        """A batch is done: the optimizer has stepped in the job that ended last."""
        self._steps += 1
        self._stepped_at = now
        self._batches_busy_s = self._busy_s - self._busy_before

    def facts(self, now: float) -> dict[str, Any]:
        """For the telemetry: steps, when the last one was, busy seconds; when the round's first batch began, busy
        seconds from then until the last step.
        """
        return {
            "steps": self._steps,
            "stepped_at": self._stepped_at,
            "busy_s": self._busy_s + (0.0 if self._since is None else now - self._since),
            "began_at": self._began_at,
            "batches_busy_s": self._batches_busy_s,
        }
