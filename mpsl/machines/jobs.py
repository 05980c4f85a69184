"""The work that machines ask for, and what comes back: the whole interface between protocol and computing.

A role's package performs its jobs with torch; the simulator performs the same, or only pretends the time they take.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpsl.job import Job
from mpsl.messages import Slice, Tensor, Ticket
from mpsl.plan import Plan
from mpsl.planning.fleet import Fleet
from mpsl.planning.plan_file import PlanFile, Predicted
from mpsl.planning.profile import Profile
from mpsl.profiling import BlockSeconds, LinkFigures, Question


@dataclass(frozen=True)
class WorkerJob:
    """Base of all jobs."""


@dataclass(frozen=True)
class Result:
    """Base of all results; a job that only changes something answers with this one.

    `memory`: the most bytes that each holder on a compute node has held so far; None from those who do not count.
    `coding_s`: CPU seconds of this job that went into encoding and decoding.
    """

    memory: Mapping[str, int] | None = field(default=None, kw_only=True, repr=False, compare=False)
    coding_s: float = field(default=0.0, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True)
class Encoded(Result):
    """A tensor to send on."""

    tensor: Tensor


# Everyone


@dataclass(frozen=True)
class Prepare(WorkerJob):
    """Build the part(s) that `plan` gives to this process, empty; raises UsageError where it cannot."""

    plan: Plan


@dataclass(frozen=True)
class Prepared(Result):
    """The part is there: `weights_bytes` is what its slices add up to.

    `promised_bytes`: what the seat may take of the node's memory budget as long as its session lasts.
    """

    weights_bytes: int
    samples: int = 0
    test_batches: int = 0
    promised_bytes: int = 0


@dataclass(frozen=True)
class Leave(WorkerJob):
    """Forget everything of the run and give its memory back."""


@dataclass(frozen=True)
class Store(WorkerJob):
    """What a `Write` effect does; named only when it fails."""

    source: str


@dataclass(frozen=True)
class MeasureBlocks(WorkerJob):
    """Measure blocks of a model in this process, before any run."""

    question: Question


@dataclass(frozen=True)
class BlocksMeasured(Result):
    """What they take."""

    times: BlockSeconds


# Device


@dataclass(frozen=True)
class StartRound(WorkerJob):
    """Fresh optimizers, the round's order of samples."""

    round: int
    attempt: int


@dataclass(frozen=True)
class HeadForward(WorkerJob):
    """Forward through the first part: one micro-batch of the shard."""

    ticket: Ticket


@dataclass(frozen=True)
class TailStep(WorkerJob):
    """Forward through the last part, loss, backward to its input."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class TailResult(Result):
    """The gradient to send back, and this micro-batch's share of the batch's loss times the batch's samples."""

    tensor: Tensor
    loss: float


@dataclass(frozen=True)
class HeadBackward(WorkerJob):
    """Backward through the first part; steps after the batch's last micro-batch."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class WholeBatch(WorkerJob):
    """No hops: forward, backward and step of a whole batch; its ticket is that of micro-batch 0."""

    ticket: Ticket


@dataclass(frozen=True)
class Trained(Result):
    """The batch's loss times its samples."""

    loss: float


@dataclass(frozen=True)
class HeadProbe(WorkerJob):
    """Batch `batch` of the test data through the first part, in evaluation mode."""

    round: int
    attempt: int
    batch: int


@dataclass(frozen=True)
class TailProbe(WorkerJob):
    """The returned activation through the last part; without hops, the whole model (`tensor` None)."""

    round: int
    attempt: int
    batch: int
    tensor: Tensor | None


@dataclass(frozen=True)
class Scored(Result):
    """Of `total` samples, `correct` were right; `loss` is the sum of their losses."""

    correct: int
    total: int
    loss: float = 0.0


# Slices of weights, from whoever holds them


@dataclass(frozen=True)
class Export(WorkerJob):
    """Slices of all tensors of the part(s), as views of their memory: `purpose` as in messages.Slice."""

    purpose: str
    version: int
    attempt: int = 0
    part: int = 0


@dataclass(frozen=True)
class Exported(Result):
    """The slices, in order; `digest` of their bytes."""

    slices: Sequence[Slice] = field(repr=False)
    digest: str = ""


# Hop


@dataclass(frozen=True)
class CopyPart(WorkerJob):
    """Copy the committed part for an admitted device, with a fresh optimizer."""

    device: str
    attempt: int
    round: int


@dataclass(frozen=True)
class DropCopy(WorkerJob):
    """Forget a device's copy and activations."""

    device: str
    attempt: int


@dataclass(frozen=True)
class Forward(WorkerJob):
    """Forward of a device's copy; keeps what backward needs."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class Backward(WorkerJob):
    """Backward of a device's copy; steps after the batch's last micro-batch. Answers with the input's gradient."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class ForwardProbe(WorkerJob):
    """Forward of the committed part in evaluation mode; keeps nothing."""

    device: str
    attempt: int
    batch: int
    round: int
    tensor: Tensor


@dataclass(frozen=True)
class CheckCopy(WorkerJob):
    """Check that a device's copy is finite after its last step; raises UsageError where it is not."""

    round: int
    device: str
    attempt: int


@dataclass(frozen=True)
class Fold(WorkerJob):
    """Add a device's copy, weighted by its samples, to the round's sum, and drop the copy."""

    device: str
    attempt: int
    samples: int


@dataclass(frozen=True)
class CommitPart(WorkerJob):
    """Divide the sum by `weight`: the committed part of `round`; `merged`: it was received as slices instead."""

    round: int
    weight: int
    merged: bool


# Orchestrator


@dataclass(frozen=True)
class BuildModel(WorkerJob):
    """Build the initial model and everything a plan needs to know of it."""

    job: Job


@dataclass(frozen=True)
class ModelBuilt(Result):
    """Facts of the model, per block: estimated compute, bytes of parameters and buffers, of the output and of what
    backward keeps at the job's batch size, of the optimizer's state; and the BatchNorms that a micro-batch of one
    sample would break.
    """

    block_costs: tuple[float, ...]
    state_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    optimizer_bytes: tuple[int, ...]
    single_value_norms: tuple[str, ...]
    input_shape: tuple[int, ...]
    classes: int
    parameters: int


@dataclass(frozen=True)
class FindPlan(WorkerJob):
    """Find the best chain of exactly `hops` hops; raises UsageError where none fits."""

    profile: Profile
    fleet: Fleet
    hops: int


@dataclass(frozen=True)
class PlanFound(Result):
    """The chain, and what it is predicted to take."""

    plan: PlanFile


@dataclass(frozen=True)
class LayOut(WorkerJob):
    """Lay out the model's tensors by the plan's parts, so that slices can be sent and received.

    `predicted`: what the plan is to take, where it was made from measured times, and `links`: those it was made from.
    """

    plan: Plan
    predicted: Predicted | None = None
    links: Mapping[str, LinkFigures] = field(default_factory=dict)


@dataclass(frozen=True)
class LaidOut(Result):
    """Bytes of the device's first and last parts together, and of each stage's part."""

    device_bytes: int
    part_bytes: tuple[int, ...]


@dataclass(frozen=True)
class CheckUpdate(WorkerJob):
    """Check that a device's received parts are finite; raises UsageError that names the tensor where they are not."""

    device: str
    attempt: int


@dataclass(frozen=True)
class FoldUpdate(WorkerJob):
    """Add a device's received first and last parts to the round's sum."""

    device: str
    attempt: int
    samples: int


@dataclass(frozen=True)
class Checkpoint(WorkerJob):
    """Merge and divide the sums of all parts by `weight`, and put the whole model on disk (write, fsync, rename).

    `digests` are the sums' as the seats computed them, by (stage, replica) address.
    """

    round: int
    weight: int
    digests: dict[str, str]


@dataclass(frozen=True)
class RecordRound(WorkerJob):
    """Append a round to the metrics, and one line for each device to the devices' figures."""

    metrics: dict[str, Any]
    devices: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Finish(WorkerJob):
    """Write the summary of the run."""

    summary: dict[str, Any]
