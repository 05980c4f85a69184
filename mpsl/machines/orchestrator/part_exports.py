"""Fetches the slices of committed parts and savepoints from the worker, for every phase that sends them."""

from collections.abc import Callable

from mpsl.machines.jobs import Export, Exported
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.savepoint import Savepoint
from mpsl.machines.session import Session
from mpsl.topics import Address

Callback = Callable[[Exported], None]


class PartExports:
    """Holds, by request, the callbacks that wait for its slices."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._awaiting: dict[Export, list[Callback]] = {}
        self._session: Session | None = None
        """The session of the requests; requests of an earlier term are not answered."""

    def send_part(self, address: Address, with_frozen: bool = False) -> None:
        """Send a seat its committed part; at the start of a term also the parameters that do not train."""
        stage = self._context.state.seats[address].stage
        if with_frozen and self._context.state.has_frozen:
            self._ask(Export("frozen", 0, 0, stage), self._sending_to(address))
        self._ask(Export("global", self._context.state.round, 0, stage), self._sending_to(address))

    def send_sum(self, address: Address, savepoint: Savepoint) -> None:
        """Send a seat its sum of a savepoint."""
        seat = self._context.state.seats[address]
        request = Export("savepoint", savepoint.round, savepoint.number, seat.stage, seat.replica)
        self._ask(request, self._sending_to(address))

    def ask_for_device_parts(self, version: int, then: Callback) -> None:
        """Ask for the slices of the devices' committed parts and hand them to `then`."""
        self._ask(Export("global", version), then)

    def ask_for_frozen_device_parts(self, then: Callback) -> None:
        """Ask for the slices of the devices' frozen parameters and hand them to `then`."""
        self._ask(Export("frozen", 0), then)

    def done(self, request: Export, exported: Exported) -> None:
        """The worker has delivered the slices."""
        for then in self._awaiting.pop(request, []):
            then(exported)

    def _sending_to(self, address: Address) -> Callback:
        return lambda exported: self._context.send_slices(address, exported)

    def _ask(self, request: Export, then: Callback) -> None:
        if self._session is not self._context.session:
            self._session = self._context.session
            self._awaiting.clear()
        if request in self._awaiting:
            self._awaiting[request].append(then)
        else:
            self._awaiting[request] = [then]
            self._context.start_job(request)
