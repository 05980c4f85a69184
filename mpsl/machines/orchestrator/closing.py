"""Closing a round: every seat sends its sum; then the whole model goes to disk.

Until the checkpoint is on disk every seat keeps the last committed part.
"""

from msgspec import structs

from mpsl.machines.arrivals import Arrivals
from mpsl.machines.jobs import Checkpoint, FoldUpdate, Result, WorkerJob
from mpsl.machines.members import Place
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.machines.unfinished import CommittedRound
from mpsl.messages import Close, Closed, Message, Slice
from mpsl.plan import Plan
from mpsl.topics import Address


class Closing(Phase):
    """What has arrived of the round's sums."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self.digests: dict[Address, str] = {}
        """Of the sums, as the seats computed them."""
        self._sums: dict[Address, Arrivals] = {}
        self._closed_by: dict[Address, Closed] = {}

    def enter(self) -> None:
        """Everyone is accepted or out: ask every seat for its sum."""
        state, ledger = self.state, self.state.need_ledger()
        self.context.cancel_timer("round")
        state.progress_at = self.context.now
        state.waiting_seats = set(state.seats)
        self._sums = {address: Arrivals() for address in state.seats}
        self._closed_by = {}
        for address in state.seats:
            served = [id for id in ledger.accepted if address in state.chain(id)]
            self.context.send(address, Close(state.round, len(served)))

    def take(self, source: str, message: Message) -> None:
        """A piece of a seat's sum, or its end."""
        seat = self.state.seat_of(source)
        match message:
            case Slice() if seat is not None and message.version == self.state.round and self.context.session:
                self._sums[seat.address].add(message)
                self.context.session.write(source, message)
                self._check(seat.address)
            case Closed() if seat is not None and message.round == self.state.round:
                self._closed_by[seat.address] = message
                self._check(seat.address)
            case _:
                self.context.drop(message, "of another attempt")

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The worker has added up an update."""
        if isinstance(job, FoldUpdate):
            self.state.folding -= 1

    def _check(self, address: Address) -> None:
        """A seat's sum is whole: its weight has to be that of the accepted devices."""
        state, closed = self.state, self._closed_by.get(address)
        if closed is None or self._sums[address].bytes != state.part_bytes[address]:
            return
        state.waiting_seats.discard(address)
        accepted = state.need_ledger().accepted
        due = sum(samples for id, samples in accepted.items() if address in state.chain(id))
        if closed.weight != due:
            self.context.fail(f"seat {address} folded {closed.weight} samples, {due} were accepted")
        self.digests = {each: said.digest for each, said in self._closed_by.items()}

    def outcome(self) -> RunOutcome | None:
        """All sums are here whole, and the devices' parts are added up."""
        return RunOutcome.SUMS_COMPLETE if not self.state.waiting_seats and self.state.folding == 0 else None


class Saving(Phase):
    """The whole model goes to disk: from then on the round is committed."""

    def __init__(self, context: RunContext, closing: Closing) -> None:
        super().__init__(context)
        self._closing = closing
        self._saved = False

    def enter(self) -> None:
        """Divide all sums and write the model."""
        state, ledger = self.state, self.state.need_ledger()
        self._saved = False
        state.metrics = {
            "round": state.round,
            "loss": ledger.loss(),
            "accuracy": None,
            "test_loss": None,
            "samples": ledger.weight,
            "seconds": self.context.now - ledger.opened_at,
            "devices": list(ledger.accepted),
            "left_out": {m.id: m.left_out or m.refusal for m in ledger.at(Place.OUT)},
            "term": state.term,
            "cuts": list(state.need_plan().cuts),
        }
        if state.need_plan().replicated:
            state.metrics["additions"] = additions(state.need_plan(), list(ledger.accepted))
        updates = {id: state.members[id].update for id in ledger.accepted}
        state.contributions = {id: update for id, update in updates.items() if update is not None}
        if state.job.run.deterministic:
            state.metrics["held_s"] = ledger.held_s
        counted = {id: structs.asdict(update) for id, update in state.contributions.items()}
        passages = {id: vars(passage) for id, passage in ledger.passages.items()}
        commit = CommittedRound(state.metrics, counted, passages)
        self.context.start_job(Checkpoint(state.round, ledger.weight, dict(self._closing.digests), commit))

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The model is on disk."""
        self._saved = self._saved or isinstance(job, Checkpoint)

    def outcome(self) -> RunOutcome | None:
        """The model is on disk."""
        return RunOutcome.SAVED if self._saved else None


def additions(plan: Plan, accepted: list[str]) -> dict[str, list[list[str]]]:
    """By stage, in which groups its part was added up: every replica its own devices, then the replicas' sums."""
    found: dict[str, list[list[str]]] = {}
    for seat in sorted(plan.seats, key=lambda seat: (seat.stage, seat.replica)):
        served = [id for id in accepted if seat.address in plan.chain(id)]
        found.setdefault(str(seat.stage), []).append(served)
    return found
