"""The jobs of a device: it measures blocks, and holds one `DeviceTraining` for every session it takes part in.

`Prepare` creates it, `Leave` drops it, and every other job of the session goes to it. Only activations, gradients,
weights and counts leave the device.
"""

from device_agent.device_training import DeviceTraining
from device_agent.shard_source import Shard
from mpsl.allowed_models import REGISTERED_ONLY, AllowedModels
from mpsl.machines.jobs import BlocksMeasured, Leave, MeasureBlocks, Prepare, Result, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice
from mpsl.nn.held_sessions import HeldSessions
from mpsl.nn.profiler import Profiler
from mpsl.plan import Plan


class DevicePerformer:
    """Performs the jobs of device `id` with its `shard`, one at a time."""

    def __init__(
        self, id: str, shard: Shard, profiler: Profiler | None = None, models: AllowedModels = REGISTERED_ONLY
    ) -> None:
        self.sessions: HeldSessions[DeviceTraining] = HeldSessions(id)
        self._id = id
        self._shard = shard
        self._profiler = profiler
        self._models = models

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Store a slice of committed weights of a session."""
        self.sessions[session].write(message)

    def perform(self, job: WorkerJob, session: SessionId | None) -> Result:
        """Do one job of a session, or of the process (`MeasureBlocks`). Raises whatever the job raises."""
        match job:
            case MeasureBlocks(question):
                if self._profiler is None:
                    raise RuntimeError("this device cannot measure")
                self._models.check(question.model.name, self._id)
                return BlocksMeasured(self._profiler.answer(question))
            case Prepare(plan):
                return self._prepare(plan, session)
            case Leave():
                self.sessions.drop(session)
                return Result()
        return self.sessions[session].perform(job)

    def _prepare(self, plan: Plan, session: SessionId | None) -> Result:
        """Raises UsageError if the shard does not fit the model."""
        self._models.check(plan.job.model.name, self._id)
        self.sessions.drop(session)
        self.sessions[session] = training = DeviceTraining(self._id, self._shard, plan)
        return training.prepared()
