"""Who performs the jobs of a simulated process: either the real performer, with a duration for each job, or one that
only states results (profile_performers.py).

It must never decide anything: which jobs there are, and when, is the machines' business.
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
    """A job under way: its virtual seconds, and what is called at its end to get the result (or the error, raised)."""

    seconds: float
    finish: Callable[[], Result]
    activity: str = ""
    """Name of the job in timelines; "" if it is not shown."""
    device: str = ""


class SimulatedPerformer(Protocol):
    """Performs the jobs of one process in virtual time, one at a time; `write` takes no time."""

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult: ...

    def write(self, source: str, message: Slice, session: SessionId | None) -> None: ...


class TimedPerformer:
    """A real performer whose jobs take `seconds_of(job)`, infinite for a job that never ends."""

    def __init__(self, performer: Performer, seconds_of: Callable[[WorkerJob], float], chance: random.Random) -> None:
        self.performer = performer
        self._seconds_of = seconds_of
        self._chance = chance

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult:
        """Perform the job at its start or at its end, by chance: a write in between comes after or before it."""
        seconds = self._seconds_of(job)

        def finish() -> Result:
            # Nothing of the real clock may reach virtual time: the same seed gives the same run.
            return replace(self.performer.perform(job, session), coding_s=0.0)

        if self._chance.random() < 0.5:
            finish = _done(finish)
        return SimulatedResult(seconds, finish)

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Copy a slice at once."""
        self.performer.write(source, message, session)


def _done(finish: Callable[[], Result]) -> Callable[[], Result]:
    """Do it now; what is returned only tells the result, or raises the error."""
    try:
        result = finish()
    except Exception as error:
        failure = error

        def fail() -> Result:
            raise failure

        return fail
    return lambda: result
