"""Fetches the slices of committed parts from the worker, for every phase that sends them."""

from collections.abc import Callable

from mpsl.machines.jobs import Export, Exported
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.session import Session
from mpsl.topics import Address


class PartExports:
    """Holds, by part, the callbacks that wait for its slices."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._awaiting: dict[Address | None, Callable[[Exported], None]] = {}
        self._session: Session | None = None
        """The session of the requests; requests of an earlier term are not answered."""

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
        """The worker has delivered the slices of a stage's part (0: the device's)."""
        seats = self._context.state.seats
        for address in [a for a in self._awaiting if (seats[a].stage if a else 0) == part]:
            self._awaiting.pop(address)(exported)
