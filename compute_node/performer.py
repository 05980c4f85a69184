"""The jobs of a compute node: it measures blocks, and holds one `SeatTraining` for every session it takes part in.

`Prepare` creates the `SeatTraining`, `Leave` drops it, and every other job of the session goes to it. All sessions
share the node's memory budget. A session that does not fit beside the others is refused and changes nothing.
"""

import itertools
from pathlib import Path

from compute_node.memory_usage import resident_bytes
from compute_node.seat_budget import promise
from compute_node.seat_training import SeatTraining
from compute_node.storage import DIRECTORY
from mpsl.allowed_models import REGISTERED_ONLY, AllowedModels
from mpsl.machines.jobs import BlocksMeasured, Leave, MeasureBlocks, Prepare, Prepared, Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice
from mpsl.nn import weights
from mpsl.nn.allocation import trim_heap
from mpsl.nn.held_sessions import HeldSessions
from mpsl.nn.profiler import Profiler
from mpsl.plan import Plan
from mpsl.profile_questions import Question


class HopPerformer:
    """Performs the jobs of node `id`, one at a time. Parts that memory has no room for go to files in `scratch`.

    `budget`: bytes for all sessions together, on top of torch; None: no limit. With a budget, memory that a device
    frees is returned to the system at once; without one, only at the end of a session. `models`: what the node's owner
    lets it compute.
    """

    def __init__(
        self,
        id: str,
        scratch: Path = DIRECTORY,
        profiler: Profiler | None = None,
        budget: int | None = None,
        models: AllowedModels = REGISTERED_ONLY,
    ) -> None:
        self.sessions: HeldSessions[SeatTraining] = HeldSessions(id)
        self._id = id
        self._profiler = profiler
        self._scratch = scratch
        self._budget = budget
        self._models = models
        self._base_bytes = 0

    @property
    def copies_alive(self) -> int:
        """The number of copies in all sessions."""
        return sum(len(training.copies) for training in self.sessions.values())

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Store a slice of weights of a session."""
        self.sessions[session].write(message)

    def perform(self, job: WorkerJob, session: SessionId | None) -> Result:
        """Do one job of a session, or of the process (`MeasureBlocks`). Raises whatever the job raises."""
        match job:
            case MeasureBlocks(question):
                return self._measure(question)
            case Prepare(plan):
                return self._prepare(plan, session)
            case Leave():
                self.sessions.drop(session)
                return Result()
        return self.sessions[session].perform(job)

    def _measure(self, question: Question) -> Result:
        if self._profiler is None:
            raise RuntimeError("this node cannot measure")
        self._models.check(question.model.name, self._id)
        times = self._profiler.answer(question)
        trim_heap()
        return BlocksMeasured(times)

    def _prepare(self, plan: Plan, session: SessionId | None) -> Result:
        """Raises UsageError if the budget is too small, RunFailed if there is no room for a file."""
        seat = plan.seat_of(self._id)
        if seat is None:
            raise RuntimeError(f"the plan of {plan.run} has no seat for {self._id}")
        self._models.check(plan.job.model.name, self._id)
        former = self.sessions.take_former(session)
        held = (former.committed, former.frozen) if former is not None and former.holds(plan, seat) else None
        if former is not None:
            del former
            trim_heap()
        if not self.sessions and held is None:
            self._base_bytes = resident_bytes()
        promised_bytes = 0
        if self._budget is not None:
            promised = {training.id: training.promised_bytes for training in self.sessions.values()}
            promised_bytes = promise(plan, seat, self._budget, promised)
        training = SeatTraining(plan, seat, self._scratch, self._budget is not None, self._base_bytes, held)
        training.promised_bytes = promised_bytes
        self.sessions[session] = training
        frozen_bytes, digest = training.frozen.nbytes, ""
        if held is not None:
            frozen_bytes = 0
            digest = weights.digest(itertools.chain(training.committed.each(), training.frozen.each()))
        size = training.committed.nbytes
        return training.reported(Prepared(size, frozen_bytes=frozen_bytes, promised_bytes=promised_bytes, held=digest))
