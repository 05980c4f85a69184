"""Loading: the initial parts go to their seats."""

from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Loaded, Message


class Loading(Phase):
    """Until every seat holds its part."""

    def __init__(self, context: RunContext, exports: PartExports) -> None:
        super().__init__(context)
        self._exports = exports

    def enter(self) -> None:
        """Send every seat its initial part."""
        self.state.progress_at = self.context.now
        self.state.waiting_seats = set(self.state.seats)
        for address in self.state.seats:
            self._exports.send_part(address)

    def take(self, source: str, message: Message) -> None:
        """A seat holds its part."""
        seat = self.state.seat_of(source)
        if isinstance(message, Loaded) and seat is not None:
            self.state.waiting_seats.discard(seat.address)

    def outcome(self) -> RunOutcome | None:
        """Every seat holds its part."""
        return None if self.state.waiting_seats else RunOutcome.ALL_LOADED
