"""The slices of committed parts, for every phase that sends some: asks the worker and hands them on."""

from collections.abc import Callable

from mpsl.machines.jobs import Export, Exported
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.session import Session
from mpsl.topics import Address


class PartExports:
    """Who waits for the slices of which part."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._awaiting: dict[Address | None, Callable[[Exported], None]] = {}
        self._session: Session | None = None
        """The session that they are for: what was asked for under a former term is not answered."""

    def send_part(self, address: Address) -> None:
        """Send a seat its committed part."""
        self.ask(address, self._context.state.round, lambda exported: self._context.send_slices(address, exported))

    def ask(self, address: Address | None, version: int, then: Callable[[Exported], None]) -> None:
        """Ask for the slices of a seat's committed part (None: the device's parts) and hand them to `then`."""
        if self._session is not self._context.session:
            self._session = self._context.session
            self._awaiting.clear()
        self._awaiting[address] = then
        part = 0 if address is None else self._context.state.seats[address].stage
        self._context.start_job(Export("global", version, 0, part))

    def done(self, part: int, exported: Exported) -> None:
        """The slices of a stage's part (0: the device's) are there."""
        seats = self._context.state.seats
        for address in [a for a in self._awaiting if (seats[a].stage if a else 0) == part]:
            self._awaiting.pop(address)(exported)
