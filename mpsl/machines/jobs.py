"""The jobs that machines ask for, and their results: the whole interface between protocol and computation.

Each role performs its jobs with torch. The simulator performs the same jobs, or only simulates their duration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpsl.messages import Purpose, Slice, Tensor, Ticket
from mpsl.plan import Plan
from mpsl.profile_questions import BlockSeconds, Question


@dataclass(frozen=True)
class WorkerJob:
    """Base of all jobs."""


@dataclass(frozen=True)
class Result:
    """Base of all results. A job that only changes something returns this one.

    `memory`: the peak bytes of each use of memory on a compute node; None where they are not counted. `coding_s`: CPU
    seconds that this job spent on encoding and decoding.
    """

    memory: Mapping[str, int] | None = field(default=None, kw_only=True, repr=False, compare=False)
    coding_s: float = field(default=0.0, kw_only=True, repr=False, compare=False)


@dataclass(frozen=True)
class Encoded(Result):
    """A tensor to send."""

    tensor: Tensor


# Everyone


@dataclass(frozen=True)
class Prepare(WorkerJob):
    """Build the part(s) that `plan` gives to this process, empty. Raises UsageError if that is impossible."""

    plan: Plan


@dataclass(frozen=True)
class Prepared(Result):
    """The part is built. `weights_bytes` is the sum of the bytes of its slices.

    `promised_bytes`: what the seat may take of the node's memory budget as long as its session lasts. `held`: the
    digest of the part that is still held from the term before; empty if there is none.
    """

    weights_bytes: int
    frozen_bytes: int = field(default=0, kw_only=True)
    """Bytes of the part's frozen parameters, which are sent once; 0 where they are still held."""
    samples: int = 0
    test_batches: int = 0
    promised_bytes: int = 0
    held: str = ""


@dataclass(frozen=True)
class Leave(WorkerJob):
    """Drop everything that belongs to the session and free its memory."""


@dataclass(frozen=True)
class Store(WorkerJob):
    """Stands for a `Write` effect when its failure is reported."""

    source: str


@dataclass(frozen=True)
class MeasureBlocks(WorkerJob):
    """Measure blocks of a model in this process, before any run."""

    question: Question


@dataclass(frozen=True)
class BlocksMeasured(Result):
    """The times of the blocks."""

    times: BlockSeconds


# Device


@dataclass(frozen=True)
class StartRound(WorkerJob):
    """Begin a round: new optimizers, and the round's order of samples."""

    round: int
    attempt: int


@dataclass(frozen=True)
class HeadForward(WorkerJob):
    """Run one micro-batch of the shard forward through the first part."""

    ticket: Ticket


@dataclass(frozen=True)
class TailStep(WorkerJob):
    """Run forward through the last part, compute the loss, and run backward to the part's input."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class TailResult(Result):
    """The gradient to send back, and this micro-batch's share of the batch's loss, times the batch's samples."""

    tensor: Tensor
    loss: float


@dataclass(frozen=True)
class HeadBackward(WorkerJob):
    """Run backward through the first part. Steps after the batch's last micro-batch."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class WholeBatch(WorkerJob):
    """Without hops: run forward, backward and step of a whole batch. Its ticket is that of micro-batch 0."""

    ticket: Ticket


@dataclass(frozen=True)
class Trained(Result):
    """The batch's loss times its samples."""

    loss: float


@dataclass(frozen=True)
class HeadProbe(WorkerJob):
    """Run batch `batch` of the test data through the first part in evaluation mode."""

    round: int
    attempt: int
    batch: int


@dataclass(frozen=True)
class TailProbe(WorkerJob):
    """Run the returned activation through the last part. Without hops, run the whole model (`tensor` None)."""

    round: int
    attempt: int
    batch: int
    tensor: Tensor | None


@dataclass(frozen=True)
class Scored(Result):
    """`correct` of `total` samples were right; `loss` is the sum of their losses."""

    correct: int
    total: int
    loss: float = 0.0


# All roles: slices of weights


@dataclass(frozen=True)
class Export(WorkerJob):
    """Make slices of all tensors of the part(s), as views of their memory. `purpose` is that of messages.Slice."""

    purpose: Purpose
    version: int
    attempt: int = 0
    part: int = 0
    replica: int = 0


@dataclass(frozen=True)
class Exported(Result):
    """The slices in order, and the digest of their bytes."""

    slices: Sequence[Slice] = field(repr=False)
    digest: str = ""


# Hop


@dataclass(frozen=True)
class CopyPart(WorkerJob):
    """Copy the committed part for an admitted device, with a new optimizer. `batches`: its steps in the round."""

    device: str
    attempt: int
    round: int
    batches: int = 0


@dataclass(frozen=True)
class DropCopy(WorkerJob):
    """Drop a device's copy and activations."""

    device: str
    attempt: int


@dataclass(frozen=True)
class Forward(WorkerJob):
    """Run a device's copy forward. Keeps what backward needs."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class Backward(WorkerJob):
    """Run a device's copy backward. Steps after the batch's last micro-batch. Returns the input's gradient."""

    ticket: Ticket
    tensor: Tensor


@dataclass(frozen=True)
class ForwardProbe(WorkerJob):
    """Run the committed part forward in evaluation mode. Keeps nothing."""

    device: str
    attempt: int
    batch: int
    round: int
    tensor: Tensor


@dataclass(frozen=True)
class CheckCopy(WorkerJob):
    """Check that a device's copy is finite after its last step. Raises UsageError if it is not."""

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
    """Divide the sum by `weight`, which gives the committed part of `round`. `merged`: it came as slices instead.

    Raises RunFailed if it is not finite.
    """

    round: int
    weight: int
    merged: bool
