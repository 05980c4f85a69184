"""Committing a round: the replicas of a stage get the merged part. All other seats serve theirs already."""

from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Commit, Committed, Loaded, Message
from mpsl.topics import Address


class Committing(Phase):
    """Until every replica serves the merged part of the round."""

    def __init__(self, context: RunContext, exports: PartExports, durability: Durability) -> None:
        super().__init__(context)
        self._exports = exports
        self._durability = durability

    def enter(self) -> None:
        """The round is closed: note its figures, and send the merged parts to the replicas of a stage."""
        state, ledger = self.state, self.state.need_ledger()
        state.progress_at = self.context.now
        state.committed = state.round
        state.waiting_seats = set(state.need_plan().merging)
        state.metrics["seconds"] = self.context.now - ledger.opened_at
        state.passages = dict(ledger.passages)
        state.scores = {}
        state.summary["loss"] = state.metrics["loss"]
        figures = {"round": state.round, "devices": len(ledger.accepted), "loss": round(ledger.loss(), 4)}
        self.context.log("info", "committed", **figures)
        self._durability.closed()
        for address in sorted(state.waiting_seats):
            if state.part_bytes[address]:
                self._exports.send_part(address)
            else:
                # A part without weights has nothing to merge.
                self.context.send(address, Commit(state.round))

    def take(self, source: str, message: Message) -> None:
        """A replica holds the merged part and may serve it, or serves it."""
        state, seat = self.state, self.state.seat_of(source)
        match message:
            case Loaded() if seat is not None and message.version == state.round:
                self.context.send(seat.address, Commit(state.round))
            case Committed() if seat is not None and message.round == state.round:
                state.waiting_seats.discard(seat.address)
            case _:
                self.context.drop(message, "of another round")

    def awaited_seats(self) -> set[Address]:
        """Those that have yet to answer."""
        return self.state.waiting_seats

    def outcome(self) -> RunOutcome | None:
        """Every replica has committed."""
        if self.state.waiting_seats:
            return None
        return RunOutcome.EVALUATION_DUE if self.state.evaluation_due else RunOutcome.ALL_COMMITTED
