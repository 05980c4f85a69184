"""A job: the content of JOB.toml, as frozen facts that check their own ranges.

It must never look at a fleet, a shard or a model. Whether those fit the job is checked where they are known.
"""

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mpsl import facts
from mpsl.errors import UsageError

_NAME = re.compile(r"[a-z0-9-]{1,24}\Z")


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{name} = {value} must be at least {least}")


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} = {value} must be a positive number")


@dataclass(frozen=True)
class RunSection:
    """[run]: rounds, epochs, batches and the seed.

    `deterministic`: devices are admitted and their updates are added in the order of the roster, so that two runs with
    the same contributing sets have the same weights, bit for bit.
    """

    name: str
    rounds: int
    batch_size: int
    local_epochs: int = 1
    micro_batches: int = 1
    seed: int = 0
    shuffle: bool = True
    algorithm: str = "splitfed-v1"
    evaluate_every: int = 1
    deterministic: bool = False

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"name = {self.name!r} must be 1 to 24 of the characters a-z, 0-9 and '-'")
        _at_least(
            1,
            rounds=self.rounds,
            batch_size=self.batch_size,
            local_epochs=self.local_epochs,
            micro_batches=self.micro_batches,
            evaluate_every=self.evaluate_every,
        )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed = {self.seed} must be from 0 to 2**63 - 1")


SampleDtype = Literal["float32", "float64", "int64", "int32", "uint8", "bool"]


@dataclass(frozen=True)
class InputSection:
    """[model] input: the shape of one sample, without the batch, and what its values are."""

    shape: tuple[int, ...]
    dtype: SampleDtype = "float32"

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"shape = {list(self.shape)} must name at least one size, all positive")


@dataclass(frozen=True)
class ModelSection:
    """[model]: which one, its arguments, where it is cut (None: planned from what everyone measures).

    `name`: a registered model, or a function `package.module:function` that returns an `nn.Module`. `input`: what a
    sample is; a function's model that does not say so itself needs it. `weights`: a safetensors file to start from,
    with exactly the model's tensors if `strict`. `train` and `freeze`: the parameters that train, or do not, by glob.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    cuts: tuple[int, ...] | None = None
    input: InputSection | None = None
    weights: str | None = None
    strict: bool = True
    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    @property
    def uncut(self) -> "ModelSection":
        """The same model, wherever it is cut and whatever it starts from."""
        return replace(self, cuts=None, weights=None, strict=True)


@dataclass(frozen=True)
class OptimizerSection:
    """[optimizer]: the optimizer of every part, on every device's copy."""

    name: str
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0

    def __post_init__(self) -> None:
        _positive(lr=self.lr)
        if not 0 <= self.dampening < 1:
            raise ValueError(f"dampening = {self.dampening} must be at least 0 and below 1")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum = {self.momentum} must be at least 0 and below 1")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay = {self.weight_decay} must be a number of at least 0")


@dataclass(frozen=True)
class ScheduleSection:
    """[schedule]: the learning rate over the run; `mpsl/learning_rate.py` has the formulas.

    `by`: whether it changes with every round or with every batch. `warmup_rounds` may be a fraction.
    """

    name: Literal["constant", "step", "cosine", "linear"] = "constant"
    by: Literal["round", "batch"] = "round"
    warmup_rounds: float = 0.0
    end: float = 0.0
    step_rounds: int = 10
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _at_least(1, step_rounds=self.step_rounds)
        _positive(gamma=self.gamma)
        if not (math.isfinite(self.warmup_rounds) and self.warmup_rounds >= 0):
            raise ValueError(f"warmup_rounds = {self.warmup_rounds} must be a number of at least 0")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end = {self.end} must be from 0 to 1: the share of lr at the end of the run")


@dataclass(frozen=True)
class WireSection:
    """[wire]: the codecs of every edge forward and backward, and the bytes of one publish.

    `weights` is the codec between devices and orchestrator; fp32 is exact, the others are approximate.
    """

    activations: str = "fp32"
    gradients: str = "fp32"
    chunk_bytes: int = 1040 * 1024
    weights: Literal["fp32", "fp16", "int8"] = "fp32"

    def __post_init__(self) -> None:
        if not 4096 <= self.chunk_bytes <= 64 * 1024 * 1024:
            raise ValueError(f"chunk_bytes = {self.chunk_bytes} must be from 4096 to 67108864")


@dataclass(frozen=True)
class SecuritySection:
    """[security]: what everyone in the run must at least do; None: what its own options say.

    `tls`: nobody connects to the broker in the clear, except on the broker's own machine.
    """

    require: Literal["tls", "signed", "sealed"] | None = None

    def __post_init__(self) -> None:
        if self.require in ("signed", "sealed"):
            raise ValueError(f"require = {self.require!r} is not built yet; this version knows 'tls'")


@dataclass(frozen=True)
class FleetSection:
    """[fleet]: the number of participants, the quorum, and the waiting times (seconds).

    Every stage has `replicas` nodes, which share the devices between them. Where the job has no cuts there are as many
    hops as `nodes` can fill; nodes beyond the seats are standbys. `patience_s`: how long the run waits for a node, for
    its devices, for the broker or for room on the disk, once it has begun; and how long everyone waits for the
    orchestrator. `join`: whether devices that appear in the middle of the run may take part. `expected_failure_s`: the
    time between two faults that is expected before any are seen; long rounds have savepoints accordingly. `elastic`:
    whether nodes that join in the middle of a run get seats where that makes rounds shorter (None: if there are no
    cuts). `grace_s`: how long a last will is provisional. `standby_after_s`: how long a lost node has to come back
    before a standby takes its seat. `silence_s`: the maximum age of the last sign of life. `stall_s`: how long a phase
    waits for seats without any progress.
    """

    devices: int
    nodes: int
    quorum: int | None = None
    admit: int | None = None
    round_timeout_s: float | None = None
    start_timeout_s: float = 300.0
    replicas: int = 1
    patience_s: float = 600.0
    join: Literal["open", "closed"] = "open"
    expected_failure_s: float = 3600.0
    elastic: bool | None = None
    grace_s: float = 10.0
    standby_after_s: float = 2.5
    silence_s: float = 30.0
    stall_s: float = 90.0

    def __post_init__(self) -> None:
        _at_least(1, devices=self.devices, quorum=self.quorum, admit=self.admit, replicas=self.replicas)
        _at_least(0, nodes=self.nodes)
        _positive(
            round_timeout_s=self.round_timeout_s,
            start_timeout_s=self.start_timeout_s,
            patience_s=self.patience_s,
            expected_failure_s=self.expected_failure_s,
            grace_s=self.grace_s,
            standby_after_s=self.standby_after_s,
            silence_s=self.silence_s,
            stall_s=self.stall_s,
        )
        if self.quorum is not None and self.quorum > self.devices:
            raise ValueError(f"quorum = {self.quorum} is more than devices = {self.devices}")
        if self.replicas > self.devices:
            raise ValueError(
                f"replicas = {self.replicas} is more than devices = {self.devices}: one would serve nobody"
            )


@dataclass(frozen=True)
class Job:
    """The whole of JOB.toml."""

    run: RunSection
    model: ModelSection
    optimizer: OptimizerSection
    fleet: FleetSection
    wire: WireSection = WireSection()
    schedule: ScheduleSection = ScheduleSection()
    security: SecuritySection = SecuritySection()

    def __post_init__(self) -> None:
        cuts, nodes, replicas = self.model.cuts, self.fleet.nodes, self.fleet.replicas
        if nodes < self.seats:
            of_replicas = f" of {replicas} replicas" if replicas > 1 else ""
            raise ValueError(
                f"[fleet] nodes = {nodes}, but {len(cuts or ())} cuts make {self.hops} hops{of_replicas}; "
                f"name at least {self.seats} nodes"
            )
        if self.fleet.elastic and (cuts is not None or replicas > 1):
            raise ValueError("[fleet] elastic = true needs a job without cuts and without replicas")
        if cuts is None and 0 < nodes < replicas:
            raise ValueError(f"[fleet] nodes = {nodes} are too few for one stage of replicas = {replicas}")

    @property
    def hops(self) -> int:
        """N: the number of parts that run on compute nodes."""
        if self.model.cuts is None:
            return self.fleet.nodes // self.fleet.replicas
        return max(0, len(self.model.cuts) - 1)

    @property
    def is_elastic(self) -> bool:
        """Whether the chain may be cut again for nodes that join in the middle of the run."""
        is_chain = self.model.cuts is None and self.fleet.replicas == 1 and self.hops > 0
        return is_chain and self.fleet.elastic is not False

    @property
    def seats(self) -> int:
        """The number of nodes that compute: hops × replicas."""
        return self.hops * self.fleet.replicas

    @property
    def quorum(self) -> int:
        """The number of devices that a round needs."""
        return self.fleet.quorum or self.fleet.devices


def read_job(data: object, where: str) -> Job:
    """Read a job from the plain dicts of a TOML or JSON file. Raises UsageError that names `where` and the key."""
    from mpsl.nn.optimizers import optimizers  # it needs the sections above

    job = facts.read(Job, data, where)
    try:
        optimizer = optimizers.get(job.optimizer.name)
    except UsageError as error:
        raise UsageError(f"{where}: optimizer.name: {error}") from None
    try:
        optimizer.check(job.optimizer)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    if job.model.cuts is not None and len(job.model.cuts) == 1:
        raise UsageError(
            f"{where}: model.cuts: one cut leaves no hop between the device's parts; N hops need N + 1 cuts"
        )
    return job
