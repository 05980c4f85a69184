"""The orchestrator's questions about a participant's speed, and the answers: facts that travel as JSON.

A participant keeps its answers for later runs. So a question holds everything that the answer depends on, except the
machine.
"""

import functools
import hashlib
import re
from dataclasses import dataclass

from mpsl import VERSION, facts, strict_json
from mpsl.errors import UsageError
from mpsl.job import Job, ModelSection, OptimizerSection
from mpsl.names import nearest
from mpsl.nn.optimizers import optimizers

LEARNING_RATE = 1e-6
"""It does not change the time of a step, and weights that are trained on noise stay finite."""


def optimizer_kinds() -> tuple[str, ...]:
    """Return the optimizers whose steps differ in cost, by their names in a fleet's file."""
    return tuple(kind for name in optimizers.names() for kind in optimizers.get(name).kinds)


def optimizer_section(kind: str) -> OptimizerSection:
    """Return an [optimizer] whose step costs as much as one of `kind`. Raises UsageError for an unknown kind."""
    for name in optimizers.names():
        settings = optimizers.get(name).kinds.get(kind)
        if settings is not None:
            return OptimizerSection(name, LEARNING_RATE, **settings)
    raise UsageError(f"unknown optimizer {kind!r}; {nearest(kind, optimizer_kinds())}")


def optimizer_kind(section: OptimizerSection) -> str:
    """Return the kind whose step costs as much as the section's. Raises UsageError for an unknown optimizer."""
    return optimizers.get(section.name).kind_of(section)


@dataclass(frozen=True)
class Question:
    """Measure `blocks`, a list of [a, b), of `model` in training with batches of this size."""

    model: ModelSection
    batch_size: int
    optimizer: str
    blocks: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size} must be at least 1")
        try:
            optimizer_section(self.optimizer)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if any(not 0 <= first < end for first, end in self.blocks):
            raise ValueError(f"blocks = {[list(part) for part in self.blocks]} must be [a, b) with a below b")

    @functools.cached_property
    def digest(self) -> str:
        """Equal for equal questions to one version of the program."""
        said = strict_json.dumps([VERSION, facts.plain(self)], sort_keys=True)
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def question(job: Job, blocks: tuple[tuple[int, int], ...]) -> Question:
    """Return the question for a job."""
    return Question(job.model.uncut, job.run.batch_size, optimizer_kind(job.optimizer), blocks)


@dataclass(frozen=True)
class BlockSeconds:
    """Milliseconds per batch of every block in the question, in order, and how fast they are copied and folded."""

    forward_ms: tuple[float, ...]
    backward_ms: tuple[float, ...]
    step_ms: tuple[float, ...]
    copy_gb_per_s: float

    def __post_init__(self) -> None:
        lengths = {len(self.forward_ms), len(self.backward_ms), len(self.step_ms)}
        if len(lengths) != 1:
            raise ValueError("forward_ms, backward_ms and step_ms must each have one value per block")
        if any(not 0 <= ms < float("inf") for ms in (*self.forward_ms, *self.backward_ms, *self.step_ms)):
            raise ValueError("a time is negative or not finite")
        if not 0 < self.copy_gb_per_s < float("inf"):
            raise ValueError(f"copy_gb_per_s is {self.copy_gb_per_s}; it is more than 0")


@dataclass(frozen=True)
class Answer:
    """The content of `profile` in a participant's `info`: the times, or why there are none."""

    question: str
    """The question's digest."""
    times: BlockSeconds | None = None
    error: str = ""


NO_LIMIT_MBPS = 1e6
"""The rate of a link that was not measured, and the maximum for a faster one."""
FIRST_TERM = 2**32
"""The first term of link measurements, above those of any plan, so that late messages of either are never mixed up."""

_RUN = re.compile(r"[a-z0-9-]{1,32}\Z")


@dataclass(frozen=True)
class LinkQuestion:
    """Have your link measured, as a process of `run`, by the orchestrator of this boot, in chunks of that size."""

    run: str
    orchestrator: str
    term: int
    """Rises with every participant that an orchestrator measures."""
    chunk_bytes: int

    def __post_init__(self) -> None:
        if not _RUN.match(self.run):
            raise ValueError(f"run = {self.run!r} cannot stand in a topic")
        if not FIRST_TERM <= self.term < 2**63:
            raise ValueError(f"term = {self.term} must be at least {FIRST_TERM}")
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes = {self.chunk_bytes} must be at least 1")


@dataclass(frozen=True)
class LinkFigures:
    """How fast a participant's link is: 10⁶ bit/s from it and to it, and ms of one way to the broker."""

    up_mbps: float = NO_LIMIT_MBPS
    down_mbps: float = NO_LIMIT_MBPS
    latency_ms: float = 0.0
