"""Loading: the initial parts go to their seats; and the slices of whatever part is committed, for all who need them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from mpsl.machines.effects import Run
from mpsl.machines.jobs import Export, Exported, LaidOut
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Loaded
from mpsl.topics import Address

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState


class Loading:
    """The sizes of all parts, and who waits for the slices of which."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._awaiting: dict[Address | None, Callable[[Exported], None]] = {}
        self.device_bytes = 0
        self.part_bytes: dict[Address, int] = {}

    @property
    def is_laid_out(self) -> bool:
        """Whether the sizes of the parts are known."""
        return self.device_bytes > 0

    def laid_out(self, sizes: LaidOut) -> None:
        """The model is laid out by the plan's parts."""
        self.device_bytes = sizes.device_bytes
        seats = self._machine.seats
        self.part_bytes = {address: sizes.part_bytes[seat.stage - 1] for address, seat in seats.items()}
        if self._machine.state is S.JOINING:
            self._machine.gathering.maybe_complete()

    def begin(self) -> None:
        """Send every seat its initial part."""
        machine = self._machine
        machine.heard_at = machine.now
        machine.state = S.LOADING
        machine.waiting_seats = set(machine.seats)
        for address in machine.seats:
            self.send_part(address)
        self._maybe_done()

    def send_part(self, address: Address) -> None:
        """Send a seat its committed part."""
        machine = self._machine
        self.export(address, machine.round, lambda exported: machine.send_slices(address, exported))

    def export(self, address: Address | None, version: int, then: Callable[[Exported], None]) -> None:
        """Ask for the slices of a seat's committed part (None: the device's parts) and hand them to `then`."""
        self._awaiting[address] = then
        part = 0 if address is None else self._machine.seats[address].stage
        self._machine.do(Run(Export("global", version, 0, part)))

    def exported(self, part: int, exported: Exported) -> None:
        """The slices of a stage's part (0: the device's) are there."""
        seats = self._machine.seats
        for address in [a for a in self._awaiting if (seats[a].stage if a else 0) == part]:
            self._awaiting.pop(address)(exported)

    def loaded(self, source: str, message: Loaded) -> None:
        """A seat holds its initial part."""
        seat = self._machine.seat_of(source)
        if seat is not None:
            self._machine.waiting_seats.discard(seat.address)
        self._maybe_done()

    def _maybe_done(self) -> None:
        if self._machine.state is S.LOADING and not self._machine.waiting_seats:
            self._machine.admission.open_round()
