"""Makes a closed round durable while the next one is under way: the committed parts come in and go to disk.

A round is recorded once it is on disk, and not before. The next one may not close until then, so a fault costs at most
one closed round. It must never keep the seats from their batches.
"""

from typing import Any

from msgspec import structs

from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.seat_parts import SeatParts
from mpsl.machines.orchestrator_jobs import Checkpoint, RecordRound
from mpsl.machines.unfinished import CommittedRound
from mpsl.messages import Sent, Slice
from mpsl.plan import Seat
from mpsl.topics import Address


class Durability:
    """The newest closed round on its way to disk."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._state = context.state
        self._parts = SeatParts(context, "part", 0, ())
        self._closed_at = 0.0
        self._is_writing = False
        self._is_recording = False
        self._figures: tuple[dict[str, Any], tuple[dict[str, Any], ...]] | None = None
        """The metrics of a round that is not on disk yet, and the lines of its devices."""

    @property
    def is_settled(self) -> bool:
        """Whether the newest closed round is on disk and recorded."""
        return self._state.durable == self._state.committed == self._state.reported and not self._is_recording

    @property
    def is_busy(self) -> bool:
        """Whether a file is being written."""
        return self._is_writing or self._is_recording

    @property
    def missing(self) -> set[Address]:
        """The seats whose committed part is still to come."""
        return self._parts.missing

    def waiting_for(self) -> list[str]:
        """The nodes whose committed parts are still to come, or the disk."""
        if self.is_settled:
            return []
        return sorted({self._state.node_at(address) for address in self._parts.missing}) or ["the disk"]

    def begin(self) -> None:
        """The round closes: the seats send their committed parts from now on."""
        plan = self._state.need_plan()
        own = {seat.address for seat in plan.seats} - plan.merging
        self._parts = SeatParts(self._context, "part", self._state.round, own)

    def take(self, seat: Seat, message: Slice | Sent) -> None:
        """A piece of a committed part, or its end."""
        self._parts.take(seat, message)
        self._write()

    def closed(self) -> None:
        """Every seat has closed the round."""
        self._closed_at = self._context.now
        self._write()

    def report(self, metrics: dict[str, Any], devices: tuple[dict[str, Any], ...]) -> None:
        """The figures of the round, to be recorded once it is on disk."""
        self._figures = metrics, devices
        self._record()

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The model, or the record of the round, is on disk."""
        match job:
            case Checkpoint(number):
                self._is_writing = False
                self._state.durable = number
                self._state.savepoint = None
                seconds = self._context.now - self._closed_at
                self._state.metrics["durable_s"] = seconds
                self._context.log("info", "durable", round=number, seconds=round(seconds, 3))
                self._record()
            case RecordRound():
                self._is_recording = False

    def interrupted(self) -> None:
        """The term is over: a closed round whose parts are not all here has to be made again."""
        state = self._state
        if not self._is_writing and state.durable < state.committed:
            self._context.log("warning", "round-undone", round=state.committed, durable=state.durable)
            state.committed = state.durable
            state.evaluated = min(state.evaluated, state.durable)
            self._figures = None

    def _write(self) -> None:
        """Write the model once every part is here."""
        state = self._state
        if state.committed == state.durable or self._parts.missing or self._is_writing:
            return
        self._is_writing = True
        counted = {id: structs.asdict(update) for id, update in state.contributions.items()}
        passages = {id: dict(vars(passage)) for id, passage in state.passages.items()}
        commit = CommittedRound(dict(state.metrics), counted, passages)
        # A new plan does not make it void: what is here whole shall be kept.
        self._context.start_run_job(Checkpoint(state.committed, dict(self._parts.digests), commit))

    def _record(self) -> None:
        """Record the round once it is on disk and its figures are there."""
        state = self._state
        if self._figures is None or state.durable < state.committed:
            return
        metrics, devices = self._figures
        self._figures = None
        if "durable_s" in state.metrics:
            metrics["durable_s"] = state.metrics["durable_s"]
        state.summary["rounds"].append(metrics)
        state.reported = state.durable
        self._context.publish("metrics", metrics)
        shown = {
            "loss": round(metrics["loss"], 4),
            "accuracy": metrics["accuracy"],
            "seconds": round(metrics["seconds"], 2),
        }
        for key in ("predicted_s", "held_s", "durable_s"):
            if key in metrics:
                shown[key] = round(metrics[key], 2)
        self._context.log("info", "round", round=state.durable, **shown)
        self._is_recording = True
        self._context.start_run_job(RecordRound(metrics, devices))
