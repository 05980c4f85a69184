"""Closing a round: every seat divides its sum, and serves the committed part from then on.

Where a stage has replicas, they send their sums, and get the merged part (`committing.py`). The committed parts of the
others go to the checkpoint while the next round is under way (`durability.py`).
"""

from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.members import Place
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.savepoints import Savepoints
from mpsl.machines.orchestrator.seat_parts import SeatParts
from mpsl.machines.orchestrator_jobs import Average, FoldUpdate
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Close, Closed, Message, Sent, Slice
from mpsl.plan import Plan
from mpsl.topics import Address


class Closing(Phase):
    """Until every seat has closed, and the sums of replicas are here."""

    def __init__(self, context: RunContext, durability: Durability, savepoints: Savepoints) -> None:
        super().__init__(context)
        self._durability = durability
        self._savepoints = savepoints
        self._sums = SeatParts(context, "sum", 0, ())
        self._closed: set[Address] = set()

    @property
    def digests(self) -> dict[Address, str]:
        """Of the replicas' sums, as they computed them."""
        return self._sums.digests

    def enter(self) -> None:
        """Everyone is accepted or out: tell every seat."""
        state, ledger = self.state, self.state.need_ledger()
        self.context.cancel_timer("round")
        state.progress_at = self.context.now
        state.waiting_seats = set(state.seats)
        merging = state.need_plan().merging
        self._sums = SeatParts(self.context, "sum", state.round, merging)
        self._closed = set()
        self._durability.begin()
        self._savepoints.interrupted()
        for address in state.seats:
            served = [id for id in ledger.accepted if address in state.chain(id)]
            self.context.send(address, Close(state.round, len(served), ledger.weight, address in merging))

    def take(self, source: str, message: Message) -> None:
        """A piece of a replica's sum, or a seat's word that it has closed."""
        seat = self.state.seat_of(source)
        match message:
            case Slice() | Sent() if seat is not None:
                self._sums.take(seat, message)
            case Closed() if seat is not None and message.round == self.state.round:
                self._check(seat.address, message)
            case _:
                self.context.drop(message, "of another attempt")
        self.state.waiting_seats -= self._closed - self._sums.missing

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The worker has added up an update."""
        if isinstance(job, FoldUpdate):
            self.state.folding -= 1

    def _check(self, address: Address, closed: Closed) -> None:
        """A seat has closed: the weight of its sum has to be that of the accepted devices."""
        state, accepted = self.state, self.state.need_ledger().accepted
        due = sum(samples for id, samples in accepted.items() if address in state.chain(id))
        if closed.refusal:
            self.context.fail(closed.refusal)
        elif closed.weight != due:
            self.context.fail(f"seat {address} folded {closed.weight} samples, {due} were accepted")
        self._closed.add(address)

    def awaited_seats(self) -> set[Address]:
        """Those that have yet to answer."""
        return self.state.waiting_seats

    def outcome(self) -> RunOutcome | None:
        """Every seat has closed, and the devices' parts are added up."""
        return RunOutcome.ALL_CLOSED if not self.state.waiting_seats and self.state.folding == 0 else None


class Averaging(Phase):
    """The devices' parts, and those of stages with replicas, are averaged here."""

    def __init__(self, context: RunContext, closing: Closing) -> None:
        super().__init__(context)
        self._closing = closing
        self._is_averaged = False

    def enter(self) -> None:
        """Divide the sums."""
        state, ledger = self.state, self.state.need_ledger()
        self._is_averaged = False
        state.metrics = {
            "round": state.round,
            "loss": ledger.loss(),
            "accuracy": None,
            "test_loss": None,
            "samples": ledger.weight,
            "opened_s": ledger.opened_at - (state.started_at or 0.0),
            "seconds": self.context.now - ledger.opened_at,
            "devices": list(ledger.accepted),
            "left_out": {m.id: m.left_out or m.refusal for m in ledger.at(Place.OUT)},
            "term": state.term,
            "cuts": list(state.need_plan().cuts),
        }
        if set(ledger.terms.values()) != {state.term}:
            state.metrics["accepted_under"] = dict(ledger.terms)
        if state.need_plan().replicated:
            state.metrics["additions"] = additions(state.need_plan(), list(ledger.accepted))
        updates = {id: state.members[id].update for id in ledger.accepted}
        state.contributions = {id: update for id, update in updates.items() if update is not None}
        if state.job.run.deterministic:
            state.metrics["held_s"] = ledger.held_s
        self.context.start_job(Average(state.round, ledger.weight, dict(self._closing.digests)))

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The averages are there."""
        self._is_averaged = self._is_averaged or isinstance(job, Average)

    def outcome(self) -> RunOutcome | None:
        """The averages are there."""
        return RunOutcome.AVERAGED if self._is_averaged else None


def additions(plan: Plan, accepted: list[str]) -> dict[str, list[list[str]]]:
    """By stage, in which groups its part was added up: every replica its own devices, then the replicas' sums."""
    found: dict[str, list[list[str]]] = {}
    for seat in sorted(plan.seats, key=lambda seat: (seat.stage, seat.replica)):
        served = [id for id in accepted if seat.address in plan.chain(id)]
        found.setdefault(str(seat.stage), []).append(served)
    return found
