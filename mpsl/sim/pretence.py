"""Jobs that are not done but take as long as a profile says: what performs them in a rehearsal.

Makes results that say how large they would be and hold next to nothing. It must never decide anything: which jobs
there are, and when, is the machines' business.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mpsl.machines.jobs import (
    Backward,
    BuildModel,
    CopyPart,
    DropCopy,
    Encoded,
    Export,
    Exported,
    Fold,
    Forward,
    HeadBackward,
    HeadForward,
    Job,
    LaidOut,
    LayOut,
    ModelBuilt,
    Prepare,
    Prepared,
    Result,
    TailResult,
    TailStep,
    Trained,
    WholeBatch,
)
from mpsl.messages import Slice, Tensor

PLANE = bytes(1)
"""What stands for a tensor's bytes, and so for a whole part: each part is one slice."""

GATHERING_S = 2.0
"""Virtual seconds for building the model: by then everyone has announced itself, and the fleet is looked at once."""


@dataclass(frozen=True)
class Pretended:
    """How many virtual seconds a job takes, what it answers, its name (none where it is not shown) and its device."""

    seconds: float
    result: Result
    what: str = ""
    device: str = ""
    ended: Callable[[], None] = lambda: None
    """What changes when it is done."""


class Pretence(Protocol):
    """Performs the jobs of one process."""

    def perform(self, job: Job) -> Pretended: ...


@dataclass(frozen=True)
class PartFigures:
    """One part on one kind of hardware: virtual seconds of a whole batch, bytes of its weights and of what it keeps."""

    forward_s: float
    backward_s: float
    step_s: float
    copy_s: float
    """To copy the part once, or to fold it."""
    weights: int
    stored: int
    activation: int
    """Wire bytes of one batch's output."""
    gradient: int
    """Wire bytes of one batch's gradient of its input."""


NOTHING = Result()


@dataclass
class DevicePretence:
    """A device with its first and last part; `first` is the whole model where there are no hops."""

    first: PartFigures
    last: PartFigures
    samples: int

    def perform(self, job: Job) -> Pretended:
        """What it takes."""
        first, last = self.first, self.last
        match job:
            case Prepare():
                return Pretended(0.0, Prepared(len(PLANE), self.samples, 0))
            case HeadForward(ticket):
                tensor = stand_in(first.activation // ticket.micros)
                return Pretended(first.forward_s / ticket.micros, Encoded(tensor), "forward", ticket.device)
            case TailStep(ticket):
                seconds = (last.forward_s + last.backward_s) / ticket.micros + last.step_s * ticket.last
                tensor = stand_in(last.gradient // ticket.micros)
                return Pretended(seconds, TailResult(tensor, 0.0), "forward and backward", ticket.device)
            case HeadBackward(ticket):
                seconds = first.backward_s / ticket.micros + first.step_s * ticket.last
                return Pretended(seconds, NOTHING, "backward", ticket.device)
            case WholeBatch(ticket):
                seconds = first.forward_s + first.backward_s + first.step_s
                return Pretended(seconds, Trained(0.0), "batch", ticket.device)
            case Export(purpose, version, attempt):
                return Pretended(0.0, whole(purpose, version, attempt, 0, first.weights + last.weights))
        return Pretended(0.0, NOTHING)


@dataclass
class HopPretence:
    """A compute node with its part; `holds(bytes)` hears of every change of what it holds."""

    part: PartFigures
    stage: int
    fixed_bytes: int
    copy_bytes: int
    """Of an admitted device's copy with its optimizer's state."""
    stored_bytes: int
    """Of a batch between its forward and its backward: what autograd keeps, and the input."""
    holds: Callable[[int], None]
    _held: int = field(default=0, init=False)

    def perform(self, job: Job) -> Pretended:
        """What it takes."""
        part = self.part
        match job:
            case Prepare():
                self._hold(self.fixed_bytes)
                return Pretended(0.0, Prepared(len(PLANE)))
            case CopyPart(device):
                self._hold(self.copy_bytes)
                return Pretended(part.copy_s, NOTHING, "copy", device)
            case Fold(device):
                return Pretended(part.copy_s, NOTHING, "fold", device, lambda: self._hold(-self.copy_bytes))
            case DropCopy(device):
                return Pretended(0.0, NOTHING, "", device, lambda: self._hold(-self.copy_bytes))
            case Forward(ticket):
                self._hold(self.stored_bytes // ticket.micros)
                tensor = stand_in(part.activation // ticket.micros)
                return Pretended(part.forward_s / ticket.micros, Encoded(tensor), "forward", ticket.device)
            case Backward(ticket):
                seconds = part.backward_s / ticket.micros + part.step_s * ticket.last
                tensor, freed = stand_in(part.gradient // ticket.micros), self.stored_bytes // ticket.micros
                return Pretended(seconds, Encoded(tensor), "backward", ticket.device, lambda: self._hold(-freed))
            case Export(purpose, version):
                return Pretended(0.0, whole(purpose, version, 0, self.stage, part.weights))
        return Pretended(0.0, NOTHING)

    def _hold(self, change: int) -> None:
        self._held += change
        self.holds(self._held)


@dataclass
class OrchestratorPretence:
    """The orchestrator, whose own work is not part of what is rehearsed: `part_bytes` of the device's parts (0) and
    of each stage's.
    """

    part_bytes: tuple[int, ...]
    blocks: int

    def perform(self, job: Job) -> Pretended:
        """What it takes."""
        match job:
            case BuildModel():
                none, blocks = (0,) * self.blocks, self.blocks
                return Pretended(GATHERING_S, ModelBuilt((1.0,) * blocks, none, none, none, none, (), (), 0, 0))
            case LayOut():
                return Pretended(0.0, LaidOut(len(PLANE), (len(PLANE),) * (len(self.part_bytes) - 1)))
            case Export(purpose, version, _, part):
                return Pretended(0.0, whole(purpose, version, 0, part, self.part_bytes[part]))
        return Pretended(0.0, NOTHING)


def stand_in(size: int) -> Tensor:
    """A tensor that stands for `size` bytes on the wire."""
    return Tensor("pretended", "uint8", (size,), (memoryview(PLANE),))


def whole(purpose: str, version: int, attempt: int, part: int, size: int) -> Exported:
    """A part of `size` bytes as one slice."""
    return Exported((Slice(purpose, version, attempt, part, 0, 0, stand_in(size)),))  # type: ignore[arg-type]
