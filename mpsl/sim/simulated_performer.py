"""Performs the jobs of a simulated process: either with the real performer and a duration for each job, or with one
that only states results (profile_performers.py).

It must never decide anything; the machines choose the jobs.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice


@dataclass(frozen=True)
class SimulatedResult:
    """A running job: its virtual seconds, and the callback that returns the result (or raises the error) at its end."""

    seconds: float
    finish: Callable[[], Result]
    activity: str = ""
    """Name of the job in timelines; "" if it is not shown."""
    device: str = ""
    interrupt: Callable[[], None] | None = None
    """Called if the process dies while the job is running."""


class SimulatedPerformer(Protocol):
    """Performs the jobs of one process in virtual time, one at a time; `write` takes no time."""

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult: ...

    def write(self, source: str, message: Slice, session: SessionId | None) -> None: ...


class TimedPerformer:
    """A real performer whose jobs take `seconds_of(job)`, infinite for a job that never ends.

    `die_in(job, session)`: what a job does that its process does not live to end.
    """

    def __init__(
        self,
        performer: Performer,
        seconds_of: Callable[[WorkerJob], float],
        chance: random.Random,
        die_in: Callable[[WorkerJob, SessionId | None], None] | None = None,
    ) -> None:
        self.performer = performer
        self._seconds_of = seconds_of
        self._chance = chance
        self._die_in = die_in

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult:
        """Perform the job at its start or its end, at random, so that a write in between comes after or before it."""
        seconds = self._seconds_of(job)

        def finish() -> Result:
            # The real clock must not affect virtual time, so that the same seed gives the same run.
            return replace(self.performer.perform(job, session), coding_s=0.0)

        if self._chance.random() < 0.5:
            return SimulatedResult(seconds, _done(finish))
        die_in = self._die_in
        return SimulatedResult(seconds, finish, interrupt=None if die_in is None else lambda: die_in(job, session))

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Copy a slice at once."""
        self.performer.write(source, message, session)


def _done(finish: Callable[[], Result]) -> Callable[[], Result]:
    """Do the job now. The returned function only returns the result, or raises the error."""
    try:
        result = finish()
    except Exception as error:
        failure = error

        def fail() -> Result:
            raise failure

        return fail
    return lambda: result
