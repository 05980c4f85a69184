"""The jobs of the orchestrator, and their results.

It builds the model, averages what is averaged at its side, and writes the files of a run. It never runs a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpsl.job import Job
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.savepoint import Savepoint
from mpsl.machines.unfinished import CommittedRound, Manifest
from mpsl.plan import Plan
from mpsl.planning.fleet import Fleet
from mpsl.planning.plan_file import Choice, PlannedRun, Predicted
from mpsl.planning.profile_file import Profile
from mpsl.profile_questions import LinkFigures


@dataclass(frozen=True)
class BuildModel(WorkerJob):
    """Build the initial model and find the facts about it that a plan needs."""

    job: Job


@dataclass(frozen=True)
class ModelBuilt(Result):
    """Facts about the model, one entry per block.

    They are the estimated compute and the bytes of parameters and buffers, of the output, of what backward keeps, and
    of the optimizer's state, at the job's batch size. `single_value_norms` are the BatchNorms that cannot train on a
    micro-batch of one sample.
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
    exact_bytes: tuple[int, ...] = ()
    """Of the output's bytes, those that are never coded; empty: none of any block."""
    gradient_bytes: tuple[int, ...] = ()
    """Bytes that come back for the output; empty: as many as the output has."""
    input_bytes: int = 0
    """Bytes of a batch of samples."""
    digests: tuple[str, ...] = ()
    """What every block computes, as `Plan.digests`."""
    frozen_bytes: tuple[int, ...] = ()
    """Bytes of further parameters, which do not train; empty: none of any block."""


@dataclass(frozen=True)
class FindPlan(WorkerJob):
    """Find the best chain of exactly `hops` hops. Raises UsageError if none fits."""

    profile: Profile
    fleet: Fleet
    hops: int


@dataclass(frozen=True)
class PlanFound(Result):
    """The chain, its predicted times, and who chose it."""

    choice: Choice


@dataclass(frozen=True)
class FindBetterPlan(WorkerJob):
    """Find a chain of any length whose predicted round is at least 5 % shorter than that of `now`.

    Raises UsageError if `now` is not of this fleet.
    """

    profile: Profile
    fleet: Fleet
    now: PlannedRun


@dataclass(frozen=True)
class BetterPlan(Result):
    """The chain, None if there is none, and the predicted round of the present one."""

    choice: Choice | None
    now_s: float


@dataclass(frozen=True)
class LayOut(WorkerJob):
    """Lay out the model's tensors by the plan's parts, so that slices can be sent and received; write `manifest`.

    `predicted`: the predicted times, if the plan was made from measured ones. `links`: the links that it was made from.
    `savepoint`: the sums of the devices' parts begin with those of its file. Raises RunFailed where it is damaged.
    """

    plan: Plan
    manifest: Manifest
    predicted: Predicted | None = None
    links: Mapping[str, LinkFigures] = field(default_factory=dict)
    savepoint: Savepoint | None = None


@dataclass(frozen=True)
class LaidOut(Result):
    """Bytes of the device's first and last parts together, and of each stage's part.

    `digests`: of each stage's committed part, from the second term on. `has_frozen`: whether any parameter is frozen.
    """

    device_bytes: int
    part_bytes: tuple[int, ...]
    digests: tuple[str, ...] = ()
    has_frozen: bool = False


@dataclass(frozen=True)
class CheckUpdate(WorkerJob):
    """Check that a device's received parts are finite. Raises UsageError that names a tensor that is not."""

    device: str
    attempt: int


@dataclass(frozen=True)
class FoldUpdate(WorkerJob):
    """Add a device's received first and last parts to the round's sum."""

    device: str
    attempt: int
    samples: int


@dataclass(frozen=True)
class Average(WorkerJob):
    """Divide the sums of the devices' parts by `weight`, and the merged sums of every stage with replicas.

    They are the committed parts of `round` from then on. `digests`: of the replicas' sums, as the seats computed them,
    by their addresses. Raises RunFailed if a sum did not arrive as it was sent, or an average is not finite.
    """

    round: int
    weight: int
    digests: dict[str, str]


@dataclass(frozen=True)
class Checkpoint(WorkerJob):
    """Write the whole model of `round` to disk (write, fsync, rename), and `commit` in the same file.

    `digests`: the digest of each part that a seat has sent, as the seat computed it, by the seat's address. Raises
    RunFailed if one did not arrive as it was sent, or is not finite.
    """

    round: int
    digests: dict[str, str]
    commit: CommittedRound


@dataclass(frozen=True)
class TakeSums(WorkerJob):
    """Copy the sums of the devices' parts as they are after `number` updates, for a savepoint."""

    round: int
    number: int


@dataclass(frozen=True)
class WriteSavepoint(WorkerJob):
    """Write all sums of a savepoint to disk, with its facts in the header. Raises RunFailed, DiskError."""

    savepoint: Savepoint


@dataclass(frozen=True)
class RecordRound(WorkerJob):
    """Append a round to the metrics, and one line for each device to the devices' figures."""

    metrics: dict[str, Any]
    devices: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Finish(WorkerJob):
    """Write the summary of the run."""

    summary: dict[str, Any]
