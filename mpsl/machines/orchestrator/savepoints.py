"""Savepoints of the open round: from time to time the sums so far come to the orchestrator and go to disk.

They bound what a fault costs in a long round. The interval is √(2 · cost · time between faults) (Young 1974; Daly
2006). The cost is what the last one took, from its request to the disk. A savepoint that fails is left out; it must
never end a run, nor keep it waiting.
"""

from dataclasses import replace
from math import sqrt

from msgspec import structs

from mpsl.machines.members import Place
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.seat_parts import SeatParts
from mpsl.machines.orchestrator_jobs import TakeSums, WriteSavepoint
from mpsl.machines.savepoint import Savepoint, replicas_of
from mpsl.messages import Sent, Slice, TakeSavepoint
from mpsl.plan import Seat

MIN_COST_S = 0.02
"""What a savepoint costs at least; it also stands for the cost before anything was measured."""


class Savepoints:
    """At most one is on its way."""

    def __init__(self, context: RunContext, durability: Durability) -> None:
        self._context = context
        self._state = context.state
        self._durability = durability
        self._draft: Savepoint | None = None
        """What is on its way to disk."""
        self._sums = SeatParts(context, "savepoint", 0, ())
        self._taken = False
        """Whether the sums of the devices' parts are taken."""
        self._is_writing = False
        self._began_at = 0.0
        self._cost_s: float | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a file is being written."""
        return self._is_writing

    @property
    def interval_s(self) -> float:
        """Seconds from one savepoint to the next."""
        state = self._state
        cost = max(MIN_COST_S, state.loading_s if self._cost_s is None else self._cost_s)
        elapsed = self._context.now - (state.started_at or 0.0)
        # As if one fault had been seen in the time that the job expects, and those of this run after it.
        between = (state.job.fleet.expected_failure_s + elapsed) / (1 + state.faults)
        return sqrt(2 * cost * between)

    def accepted(self) -> None:
        """An update was accepted: a savepoint may be due."""
        state, ledger, now = self._state, self._state.need_ledger(), self._context.now
        if self._draft is not None or not self._durability.is_settled or not ledger.accepted:
            return
        if not ledger.count(Place.WAITING) + ledger.count(Place.ADMITTED):
            return
        since = max(self._began_at, ledger.opened_at)
        if now - since < self.interval_s:
            return
        self._began_at = now
        plan, accepted = state.need_plan(), dict(ledger.accepted)
        updates = {id: state.members[id].update for id in accepted}
        self._draft = Savepoint(
            state.round,
            accepted,
            dict(ledger.terms),
            {id: structs.asdict(update) for id, update in updates.items() if update is not None},
            {id: dict(vars(ledger.passages[id])) for id in accepted},
            now - ledger.opened_at,
            list(plan.cuts),
            replicas_of(plan, accepted),
            {id: plan.devices[id].boot for id in accepted},
        )
        self._sums = SeatParts(self._context, "savepoint", state.round, state.seats, len(accepted))
        self._taken = False
        self._context.start_job(TakeSums(state.round, len(accepted)))
        for address in state.seats:
            served = sum(address in state.chain(id) for id in accepted)
            self._context.send(address, TakeSavepoint(state.round, len(accepted), served))

    def take(self, seat: Seat, message: Slice | Sent) -> None:
        """A piece of a seat's sum, or its end; without a digest the seat could not take it."""
        if isinstance(message, Sent) and not message.digest and self._draft is not None:
            self.failed(f"seat {seat.address} could not take its sum")
            return
        self._sums.take(seat, message)
        self._write()

    def sums_taken(self, job: TakeSums) -> None:
        """The sums of the devices' parts are taken."""
        if self._draft is not None and (job.round, job.number) == (self._draft.round, self._draft.number):
            self._taken = True
            self._write()

    def _write(self) -> None:
        if self._draft is None or not self._taken or self._sums.missing or self._is_writing:
            return
        self._is_writing = True
        self._draft = replace(self._draft, digests=dict(self._sums.digests))
        self._context.start_run_job(WriteSavepoint(self._draft))

    def written(self, job: WriteSavepoint) -> None:
        """It is on disk: a fault goes back to it from now on."""
        self._is_writing = False
        self._draft = None
        found, state = job.savepoint, self._state
        if found.round == state.durable + 1:
            state.savepoint = found
            self._cost_s = self._context.now - self._began_at
            said = {"round": found.round, "number": found.number, "seconds": round(self._cost_s, 3)}
            self._context.log("info", "savepoint", **said, next_s=round(self.interval_s, 1))

    def failed(self, reason: str) -> None:
        """It could not be taken or written: the one before stays."""
        self._is_writing = False
        self._draft = None
        self._context.log("warning", "savepoint-failed", round=self._state.round, reason=reason)

    def interrupted(self) -> None:
        """The round closes, or the term is over: what is on its way is of no use any more."""
        if not self._is_writing:
            self._draft = None
