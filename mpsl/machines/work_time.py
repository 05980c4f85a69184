"""Measures how long a hop's worker has worked: in its run, and between the first and the last batch of a round.

The worker is busy from the moment that it is asked for a job until the result is received. This file must never know
what the jobs do, except for the first one of a round.
"""

from typing import Any

from mpsl.machines.jobs import Forward, WorkerJob


class WorkTime:
    """The work time of one run. Call it when the worker begins and ends a job, and at every step."""

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
        """The worker begins a job. The first forward of a round begins the round's batches."""
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
        """A batch is done: the optimizer stepped in the last job."""
        self._steps += 1
        self._stepped_at = now
        self._batches_busy_s = self._busy_s - self._busy_before

    def facts(self, now: float) -> dict[str, Any]:
        """Return the telemetry fields: the steps, the time of the last one, and the busy seconds.

        They also hold when the round's first batch began, and the busy seconds from then until the last step.
        """
        return {
            "steps": self._steps,
            "stepped_at": self._stepped_at,
            "busy_s": self._busy_s + (0.0 if self._since is None else now - self._since),
            "began_at": self._began_at,
            "batches_busy_s": self._batches_busy_s,
        }
