"""Committing a round: every seat divides its own sum; replicas of a stage get the merged part."""

from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Commit, Committed, Loaded, Message


class Committing(Phase):
    """Lasts until every seat serves the committed part of the round."""

    def __init__(self, context: RunContext, exports: PartExports) -> None:
        super().__init__(context)
        self._exports = exports

    def enter(self) -> None:
        """The round is on disk: note its figures, and tell every seat."""
        state, ledger = self.state, self.state.need_ledger()
        state.progress_at = self.context.now
        state.committed = state.round
        state.waiting_seats = set(state.seats)
        state.metrics["seconds"] = self.context.now - ledger.opened_at
        state.passages = dict(ledger.passages)
        state.scores = {}
        state.summary["loss"] = state.metrics["loss"]
        figures = {"round": state.round, "devices": len(ledger.accepted), "loss": round(ledger.loss(), 4)}
        self.context.log("info", "committed", **figures)
        replicated = {seat.stage for seat in state.seats.values() if seat.replica > 0}
        for address, seat in state.seats.items():
            if seat.stage in replicated:
                self._exports.send_part(address)
            else:
                self.context.send(address, Commit(state.round, ledger.weight))

    def take(self, source: str, message: Message) -> None:
        """A replica holds the merged part and may serve it, or a seat serves the committed part."""
        state, seat = self.state, self.state.seat_of(source)
        match message:
            case Loaded() if seat is not None and message.version == state.round:
                self.context.send(seat.address, Commit(state.round, state.need_ledger().weight, merged=True))
            case Committed() if seat is not None and message.round == state.round:
                state.waiting_seats.discard(seat.address)
            case _:
                self.context.drop(message, "of another round")

    def outcome(self) -> RunOutcome | None:
        """Every seat has committed."""
        if self.state.waiting_seats:
            return None
        return RunOutcome.EVALUATION_DUE if self.state.evaluation_due else RunOutcome.ALL_COMMITTED
