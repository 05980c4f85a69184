"""Loading: the committed parts go to their seats, at the start of the run and under every new term.

Where the round goes on from a savepoint, every seat gets its sum as well.
"""

from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.savepoint import Savepoint
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Keep, Loaded, Message, Restored, RestoreSum
from mpsl.topics import Address


class Loading(Phase):
    """Lasts until every seat holds its part, and its sum of the savepoint."""

    def __init__(self, context: RunContext, exports: PartExports) -> None:
        super().__init__(context)
        self._exports = exports
        self._began_at = 0.0

    def enter(self) -> None:
        """Send every seat its part, unless it still holds that part from the term before."""
        state = self.state
        state.progress_at = self._began_at = self.context.now
        state.waiting_seats = set(state.seats)
        for address in state.seats:
            if address in state.held_digests and state.held_digests[address] == state.part_digests.get(address):
                self.context.send(address, Keep(state.committed))
            else:
                self._exports.send_part(address, with_frozen=True)
                if not state.part_bytes[address]:
                    # No slice tells a part without weights that it is complete.
                    self.context.send(address, Keep(state.committed))

    def take(self, source: str, message: Message) -> None:
        """A seat holds its part, or its sum of the savepoint."""
        state, seat = self.state, self.state.seat_of(source)
        savepoint = state.savepoint_of(state.committed + 1)
        match message:
            case Loaded() if seat is not None and savepoint is not None:
                self._restore(seat.address, savepoint)
            case Loaded() | Restored() if seat is not None:
                state.waiting_seats.discard(seat.address)

    def _restore(self, address: Address, savepoint: Savepoint) -> None:
        """Send a seat its sum: the round goes on from the savepoint."""
        served = {id: samples for id, samples in savepoint.accepted.items() if address in self.state.chain(id)}
        self._exports.send_sum(address, savepoint)
        self.context.send(address, RestoreSum(savepoint.round, len(served), sum(served.values())))

    def awaited_seats(self) -> set[Address]:
        """Those that have yet to answer."""
        return self.state.waiting_seats

    def outcome(self) -> RunOutcome | None:
        """Every seat holds its part. A committed round that is not reported yet comes before the next round."""
        state = self.state
        if state.waiting_seats:
            return None
        state.loading_s = max(state.loading_s, self.context.now - self._began_at)
        if state.reported == state.committed:
            return RunOutcome.ALL_LOADED
        return RunOutcome.EVALUATION_DUE if state.evaluation_due else RunOutcome.ALL_COMMITTED
