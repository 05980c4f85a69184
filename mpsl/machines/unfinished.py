"""The durable state of an unfinished run: enough for another orchestrator to go on from its last committed round.

Plain data; the performer reads and writes the files. Nothing else may be needed from a broker.
"""

from dataclasses import dataclass, field
from typing import Any

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.savepoint import Savepoint
from mpsl.messages import Update
from mpsl.plan import Plan
from mpsl.planning.plan_file import PlannedRun

FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """Written before a plan is published. The next orchestrator of the run must use a higher term."""

    run: str
    term: int
    job: Job
    plan: Plan
    terms: list[dict[str, Any]]
    """As in summary.json."""
    bystanders: list[tuple[str, str]]
    planned: PlannedRun | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class CommittedRound:
    """Written with the model of a round, in the same file: its metrics so far, and the updates that count."""

    metrics: dict[str, Any]
    contributions: dict[str, dict[str, Any]]
    passages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """When each device passed through the round, or why it was left out."""


@dataclass(frozen=True)
class Unfinished:
    """A run that can go on. `commit` is of round `committed` (0: none yet); `rounds` are the recorded metrics."""

    manifest: Manifest
    committed: int = 0
    commit: CommittedRound | None = None
    savepoint: Savepoint | None = None
    """Of the round after it."""
    rounds: tuple[dict[str, Any], ...] = ()

    @property
    def reported(self) -> int:
        """The last round whose metrics are recorded."""
        return len(self.rounds)

    @property
    def contributions(self) -> dict[str, Update]:
        """The contributions of the committed round."""
        return {} if self.commit is None else {id: Update(**said) for id, said in self.commit.contributions.items()}


MAY_CHANGE = (
    ("run", "rounds"),
    ("fleet", "round_timeout_s"),
    ("fleet", "start_timeout_s"),
    ("fleet", "patience_s"),
    ("fleet", "expected_failure_s"),
    ("fleet", "grace_s"),
    ("fleet", "standby_after_s"),
    ("fleet", "silence_s"),
    ("fleet", "stall_s"),
)
"""Keys of a job that may change when its run goes on."""


def changed_key(before: Job, now: Job) -> str | None:
    """Return the first key that may not differ but does, with both values in words; None if there is none."""
    ours, theirs = facts.plain(before), facts.plain(now)
    for section in theirs:
        for key in sorted(ours[section].keys() | theirs[section].keys()):
            first, second = ours[section].get(key), theirs[section].get(key)
            if first != second and (section, key) not in MAY_CHANGE:
                return f"{section}.{key} was {first!r} and is {second!r}"
    return None


def go_on(found: Unfinished, job: Job, planned: PlannedRun | None, where: str) -> Unfinished:
    """Return the run with the present job. Raises UsageError if it is another job, or has no round left."""
    manifest = found.manifest
    if (key := changed_key(manifest.job, job)) is not None:
        raise UsageError(f"{where}: holds the unfinished run {manifest.run} of another job: {key}")
    if manifest.planned != planned:
        raise UsageError(f"{where}: holds the unfinished run {manifest.run}, which had another --plan")
    if job.run.rounds < found.committed:
        done, asked = found.committed, job.run.rounds
        raise UsageError(f"{where}: holds run {manifest.run} with {done} rounds; run.rounds = {asked} asks for fewer")
    return found
