"""Whole parts on their way from seats to the orchestrator: which slices have come, and which digests are due.

It has slices written and counts them. It must never decide what becomes of a part.
"""

from collections.abc import Iterable

from mpsl.machines.arrivals import Arrivals
from mpsl.machines.orchestrator.context import RunContext
from mpsl.messages import Purpose, Sent, Slice
from mpsl.plan import Seat
from mpsl.topics import Address


class SeatParts:
    """What the seats at `addresses` send of one purpose, version and attempt."""

    def __init__(
        self, context: RunContext, purpose: Purpose, version: int, addresses: Iterable[Address], attempt: int = 0
    ) -> None:
        self.missing = set(addresses)
        """The seats whose part is not here whole."""
        self.digests: dict[Address, str] = {}
        """Of the parts, as the seats computed them."""
        self._context = context
        self._purpose = purpose
        self._version = version
        self._attempt = attempt
        self._arrivals = {address: Arrivals() for address in self.missing}

    def take(self, seat: Seat, message: Slice | Sent) -> None:
        """A slice, or the word that all have been sent."""
        address, session = seat.address, self._context.session
        about = (message.purpose, message.version, message.attempt)
        if about != (self._purpose, self._version, self._attempt) or address not in self.missing or session is None:
            self._context.drop(message, "of another round")
            return
        if isinstance(message, Sent):
            self.digests[address] = message.digest
        else:
            self._arrivals[address].add(message)
            session.write(seat.node, message)
        if address in self.digests and self._arrivals[address].bytes == self._context.state.part_bytes[address]:
            self.missing.discard(address)
