"""What is known of a run, as plain data that all phases share. It decides nothing and sends nothing."""

from dataclasses import dataclass, field, replace
from typing import Any

from mpsl.job import Job
from mpsl.machines.members import Member, Passage, RoundLedger
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.machines.savepoint import Savepoint
from mpsl.machines.seating import Seating
from mpsl.machines.unfinished import Unfinished
from mpsl.messages import Score, Update
from mpsl.plan import Plan, Seat
from mpsl.planning.plan_file import PlannedRun, Predicted
from mpsl.profile_questions import LinkFigures
from mpsl.topics import Address


@dataclass
class RunState:
    """One run; `planned` says who sits where and whom the run waits for, None where the job leaves that open."""

    job: Job
    run: str
    boot: str
    planned: PlannedRun | None = None
    unfinished: Unfinished | None = None
    """What is on disk of the run, where another orchestrator has begun it."""
    term: int = 0
    """Of the newest plan; 0 before there is one."""
    started_at: float | None = None
    """When the broker first took us."""
    model: ModelBuilt | None = None
    seating: tuple[Job, Seating] | None = None
    """Who is to be seated, for a job that may have been given its cuts meanwhile."""
    seated: tuple[Job, Seating] | None = None
    """Who was seated under the newest term."""
    predicted: Predicted | None = None
    """What the plan is to take, where it was made from measured times."""
    links: dict[str, LinkFigures] = field(default_factory=dict)
    plan: Plan | None = None
    seats: dict[Address, Seat] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    bystanders: set[tuple[str, str]] = field(default_factory=set)
    """Devices that were free when the run began and were not chosen, with their boots."""
    device_bytes: int = 0
    """Of what trains of the device's first and last part."""
    is_laid_out: bool = False
    """Whether the model is laid out by the present plan's parts."""
    has_frozen: bool = False
    """Whether the model has parameters that do not train: they are sent once under each term."""
    part_bytes: dict[Address, int] = field(default_factory=dict)
    ledger: RoundLedger | None = None
    part_digests: dict[Address, str] = field(default_factory=dict)
    """Of the committed parts, from the second term on: a seat that holds one is not sent it again."""
    seat_revisions: dict[Address, int] = field(default_factory=dict)
    """Which revision of the plan each seat knows."""
    held_digests: dict[Address, str] = field(default_factory=dict)
    """Of the parts that the seats hold from the term before."""
    round: int = 0
    """The open round, or the last one."""
    committed: int = 0
    """The last round that is closed: every seat serves its committed part."""
    durable: int = 0
    """The last round that is on disk: the committed one, or the one before."""
    evaluated: int = 0
    """The last round that was evaluated."""
    reported: int = 0
    """The last round whose metrics are recorded: it is on disk."""
    held_up_since: float | None = None
    """When the run first lost a seat since an update was last accepted; None while it gets on."""
    faults: int = 0
    """How often a seat was lost, or the orchestrator was."""
    savepoint: Savepoint | None = None
    """The newest one of the round after the durable one."""
    loading_s: float = 0.0
    """How long the parts took to their seats last."""
    term_reason: str = ""
    """Why the newest term began; empty for the first."""
    lost_nodes: dict[str, str] = field(default_factory=dict)
    """Nodes that have to be replaced before the run can go on, and why."""
    unfit_nodes: dict[str, str] = field(default_factory=dict)
    """Nodes that failed in this run, with the boot that did: another process of the id may take part again."""
    folding: int = 0
    """Accepted updates that the worker has yet to add up."""
    waiting_seats: set[Address] = field(default_factory=set)
    """The seats that the present phase still waits for."""
    progress_at: float = 0.0
    """When a link last brought something new."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of the committed round, so far."""
    contributions: dict[str, Update] = field(default_factory=dict)
    """Of the committed round, the updates that count, in the order of acceptance."""
    passages: dict[str, Passage] = field(default_factory=dict)
    """Of the committed round, of every device of the run."""
    scores: dict[str, Score] = field(default_factory=dict)
    """Of the committed round, where it was evaluated."""
    suspects: str = ""
    """Which devices' losses stand out, where the model may have been spoiled by them: the end of an error message."""
    failure: str = ""
    """Why the run cannot go on; the first reason stands."""
    summary: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.unfinished is not None:
            self._go_on(self.unfinished)
        self.summary = {
            "run": self.run,
            "state": "failed",
            "reason": "",
            "rounds": [],
            "terms": [],
            "accuracy": None,
            "loss": None,
            "seconds": 0.0,
        } | self.summary

    def _go_on(self, found: Unfinished) -> None:
        """Take over what a former orchestrator of the run has made durable."""
        manifest = found.manifest
        self.term, self.term_reason = manifest.term, "the orchestrator was started again"
        before = manifest.plan.job
        fleet = replace(self.job.fleet, nodes=before.fleet.nodes, replicas=before.fleet.replicas)
        job = replace(self.job, model=replace(self.job.model, cuts=before.model.cuts), fleet=fleet)
        self.plan = replace(manifest.plan, job=job, run=self.run, orchestrator=self.boot)
        self.seats = {seat.address: seat for seat in self.plan.seats}
        self.savepoint = found.savepoint
        if found.savepoint is not None:
            # Newcomers are not in the plan of the manifest.
            for id, at in found.savepoint.boots.items():
                self.plan = self.plan if id in self.plan.devices else self.plan.with_device(id, at)
        self.faults = len(manifest.terms)
        self.bystanders = {(id, boot) for id, boot in manifest.bystanders}
        self.round = self.committed = self.durable = found.committed
        self.reported = found.reported
        self.contributions = found.contributions
        rounds = [dict(entry) for entry in found.rounds]
        last: dict[str, Any] = rounds[-1] if rounds else {}
        self.summary = {
            "rounds": rounds,
            "terms": list(manifest.terms),
            "loss": last.get("loss"),
            "accuracy": next((e["accuracy"] for e in reversed(rounds) if e.get("accuracy") is not None), None),
        }
        if found.commit is not None and self.reported < self.committed:
            self.metrics = dict(found.commit.metrics)
            self.passages = {id: Passage(**said) for id, said in found.commit.passages.items()}
        else:
            self.evaluated = self.committed

    @property
    def evaluation_due(self) -> bool:
        """Whether the committed round is one of those that are evaluated, and has not been yet."""
        run = self.job.run
        due = self.committed == run.rounds or self.committed % run.evaluate_every == 0
        return due and self.evaluated < self.committed

    def savepoint_of(self, round: int) -> Savepoint | None:
        """The savepoint that a round goes on from, where there is one."""
        return self.savepoint if self.savepoint is not None and self.savepoint.round == round else None

    def seat_of(self, node: str) -> Seat | None:
        """The seat of a node in this run."""
        return self.plan.seat_of(node) if self.plan else None

    def chain(self, device: str) -> list[Address]:
        """The seats that serve a device, from stage 1 on."""
        return self.plan.chain(device) if self.plan else []

    def node_at(self, address: Address) -> str:
        """The node that has a seat; any other address as it is."""
        return self.seats[address].node if address in self.seats else address

    def need_model(self) -> ModelBuilt:
        """The facts of the model, once they must be there."""
        assert self.model is not None
        return self.model

    def need_plan(self) -> Plan:
        """The plan, once it must be there."""
        assert self.plan is not None
        return self.plan

    def need_ledger(self) -> RoundLedger:
        """The ledger of the open round or evaluation."""
        assert self.ledger is not None
        return self.ledger
