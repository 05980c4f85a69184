"""Loading: the committed parts go to their seats, at the start of the run and under every new term."""

from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Keep, Loaded, Message
from mpsl.topics import Address


class Loading(Phase):
    """Lasts until every seat holds its part."""

    def __init__(self, context: RunContext, exports: PartExports) -> None:
        super().__init__(context)
        self._exports = exports

    def enter(self) -> None:
        """Send every seat its part, unless it still holds that part from the term before."""
        state = self.state
        state.progress_at = self.context.now
        state.waiting_seats = set(state.seats)
        for address in state.seats:
            if address in state.held_digests and state.held_digests[address] == state.part_digests.get(address):
                self.context.send(address, Keep(state.committed))
            else:
                self._exports.send_part(address)

    def take(self, source: str, message: Message) -> None:
        """A seat holds its part."""
        seat = self.state.seat_of(source)
        if isinstance(message, Loaded) and seat is not None:
            self.state.waiting_seats.discard(seat.address)

    def awaited_seats(self) -> set[Address]:
        """Those that have yet to answer."""
        return self.state.waiting_seats

    def outcome(self) -> RunOutcome | None:
        """Every seat holds its part. A committed round that is not reported yet comes before the next round."""
        state = self.state
        if state.waiting_seats:
            return None
        if state.reported == state.committed:
            return RunOutcome.ALL_LOADED
        return RunOutcome.EVALUATION_DUE if state.evaluation_due else RunOutcome.ALL_COMMITTED
