"""Performers of a rehearsal: their jobs are not done, but take as long as a profile says.

Their results state their size, but hold almost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from mpsl.machines.jobs import (
    Backward,
    CopyPart,
    DropCopy,
    Encoded,
    Export,
    Exported,
    Fold,
    Forward,
    HeadBackward,
    HeadForward,
    Prepare,
    Prepared,
    Result,
    TailResult,
    TailStep,
    Trained,
    WholeBatch,
    WorkerJob,
)
from mpsl.machines.orchestrator_jobs import BuildModel, LaidOut, LayOut, ModelBuilt
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice, Tensor
from mpsl.sim.simulated_performer import SimulatedResult

PLANE = bytes(1)
"""Stands for the bytes of a tensor, and so of a whole part: each part is one slice."""

GATHERING_S = 2.0
"""Virtual seconds for building the model: by then all participants are known, and the fleet is checked only once."""

NOTHING = Result()


@dataclass(frozen=True)
class PartFigures:
    """One part on one kind of hardware.

    Virtual seconds of a whole batch, bytes of its weights and of the activations that it stores.
    """

    forward_s: float
    backward_s: float
    step_s: float
    copy_s: float
    """Seconds to copy the part once, or to fold it."""
    weights: int
    stored: int
    activation: int
    """Wire bytes of one batch's output."""
    gradient: int
    """Wire bytes of one batch's gradient of its input."""


class _ProfilePerformer:
    """Performs jobs without real weights."""

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Do nothing."""


@dataclass
class SimulatedDevicePerformer(_ProfilePerformer):
    """A device with its first and last part; without hops, `first` is the whole model."""

    first: PartFigures
    last: PartFigures
    samples: int

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult:
        """State how long the job takes and what it results in."""
        first, last = self.first, self.last
        match job:
            case Prepare():
                return _result(0.0, Prepared(len(PLANE), self.samples, 0))
            case HeadForward(ticket):
                tensor = stand_in(first.activation // ticket.micros)
                return _result(first.forward_s / ticket.micros, Encoded(tensor), "forward", ticket.device)
            case TailStep(ticket):
                seconds = (last.forward_s + last.backward_s) / ticket.micros + last.step_s * ticket.last
                tensor = stand_in(last.gradient // ticket.micros)
                return _result(seconds, TailResult(tensor, 0.0), "forward and backward", ticket.device)
            case HeadBackward(ticket):
                seconds = first.backward_s / ticket.micros + first.step_s * ticket.last
                return _result(seconds, NOTHING, "backward", ticket.device)
            case WholeBatch(ticket):
                seconds = first.forward_s + first.backward_s + first.step_s
                return _result(seconds, Trained(0.0), "batch", ticket.device)
            case Export(purpose, version, attempt):
                return _result(0.0, whole(purpose, version, attempt, 0, first.weights + last.weights))
        return _result(0.0, NOTHING)


@dataclass
class SimulatedHopPerformer(_ProfilePerformer):
    """A compute node with its part; `on_memory(bytes)` is called whenever the bytes that it holds change."""

    part: PartFigures
    stage: int
    fixed_bytes: int
    copy_bytes: int
    """Bytes of an admitted device's copy with its optimizer state."""
    stored_bytes: int
    """Bytes of a batch between its forward and its backward: what autograd keeps, and the input."""
    on_memory: Callable[[int], None]
    _held: int = field(default=0, init=False)

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult:
        """Return the duration and the result of the job, and account for its memory."""
        part = self.part
        match job:
            case Prepare():
                self._hold(self.fixed_bytes)
                return _result(0.0, Prepared(len(PLANE)))
            case CopyPart(device):
                self._hold(self.copy_bytes)
                return _result(part.copy_s, NOTHING, "copy", device)
            case Fold(device):
                return self._freeing(self.copy_bytes, part.copy_s, NOTHING, "fold", device)
            case DropCopy(device):
                return self._freeing(self.copy_bytes, 0.0, NOTHING, "", device)
            case Forward(ticket):
                self._hold(self.stored_bytes // ticket.micros)
                tensor = stand_in(part.activation // ticket.micros)
                return _result(part.forward_s / ticket.micros, Encoded(tensor), "forward", ticket.device)
            case Backward(ticket):
                seconds = part.backward_s / ticket.micros + part.step_s * ticket.last
                tensor, freed = stand_in(part.gradient // ticket.micros), self.stored_bytes // ticket.micros
                return self._freeing(freed, seconds, Encoded(tensor), "backward", ticket.device)
            case Export(purpose, version):
                return _result(0.0, whole(purpose, version, 0, self.stage, part.weights))
        return _result(0.0, NOTHING)

    def _hold(self, change: int) -> None:
        self._held += change
        self.on_memory(self._held)

    def _freeing(self, freed: int, seconds: float, result: Result, activity: str, device: str) -> SimulatedResult:
        def finish() -> Result:
            self._hold(-freed)
            return result

        return SimulatedResult(seconds, finish, activity, device)


@dataclass
class SimulatedOrchestratorPerformer(_ProfilePerformer):
    """The orchestrator, whose own work is not part of a rehearsal.

    `part_bytes`: the bytes of the device's parts (0) and of each stage's.
    """

    part_bytes: tuple[int, ...]
    blocks: int

    def perform(self, job: WorkerJob, session: SessionId | None) -> SimulatedResult:
        """Return the result of the job."""
        match job:
            case BuildModel():
                none, blocks = (0,) * self.blocks, self.blocks
                return _result(GATHERING_S, ModelBuilt((1.0,) * blocks, none, none, none, none, (), (), 0, 0))
            case LayOut():
                return _result(0.0, LaidOut(len(PLANE), (len(PLANE),) * (len(self.part_bytes) - 1)))
            case Export(purpose, version, _, part):
                return _result(0.0, whole(purpose, version, 0, part, self.part_bytes[part]))
        return _result(0.0, NOTHING)


def stand_in(size: int) -> Tensor:
    """Return a tensor that stands for `size` bytes on the wire."""
    return Tensor("simulated", "uint8", (size,), (memoryview(PLANE),))


def whole(purpose: str, version: int, attempt: int, part: int, size: int) -> Exported:
    """Return a part of `size` bytes as one slice."""
    return Exported((Slice(purpose, version, attempt, part, 0, 0, stand_in(size)),))  # type: ignore[arg-type]


def _result(seconds: float, result: Result, activity: str = "", device: str = "") -> SimulatedResult:
    return SimulatedResult(seconds, lambda: result, activity, device)
