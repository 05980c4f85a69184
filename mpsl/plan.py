"""The plan of a run: the seats and devices, as every participant reads them from the retained topic run/<run>/plan.

It holds facts that the orchestrator has decided. It must never hold private data of a device.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

from mpsl import PROTOCOL
from mpsl.admission_limit import seat_admission
from mpsl.job import Job
from mpsl.names import ORCHESTRATOR
from mpsl.topics import Address, seat_address


@dataclass(frozen=True)
class Seat:
    """One seat in the chain: `blocks` [a, b) of the model on `node`, a process of boot `boot`.

    If the node's budget is short: `on_disk`, committed part and sum lie in a file; `recompute`, activations are
    recomputed at backward.
    """

    stage: int
    replica: int
    node: str
    boot: str
    blocks: tuple[int, int]
    on_disk: bool = False
    recompute: bool = False

    @property
    def address(self) -> Address:
        """The address of its binary messages."""
        return seat_address(self.stage, self.replica)


@dataclass(frozen=True)
class DeviceEntry:
    """A device of the run: its boot and which replica serves it at each stage."""

    boot: str
    replicas: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a seat or a device must know to take part; `message_bytes` bounds any message of the run.

    At first, `admit` devices are admitted at once.
    """

    run: str
    term: int
    orchestrator: str
    """The orchestrator's boot."""
    job: Job
    blocks: int
    cuts: tuple[int, ...]
    seats: tuple[Seat, ...]
    devices: dict[str, DeviceEntry]
    admit: int
    message_bytes: int
    protocol: int = PROTOCOL
    admit_most: int = 0
    """The maximum of `admit` within the budgets of the nodes."""
    revision: int = 0
    """Counts the changes of this plan under its term: restarted devices, and devices that came later."""
    round: int = 0
    """The committed round that this term goes on from."""
    shortfall: str = ""
    """The price of a short memory budget, in words; empty if there is none."""
    digests: tuple[str, ...] = ()
    """What each block computes, for a model that is not one of this package: all members must compute the same."""

    @property
    def hops(self) -> int:
        """N, the number of stages."""
        return max(0, len(self.cuts) - 1)

    @property
    def first_blocks(self) -> tuple[int, int]:
        """Blocks [a, b) of the device's first part; all blocks if there are no hops."""
        return (0, self.cuts[0]) if self.cuts else (0, self.blocks)

    @property
    def last_blocks(self) -> tuple[int, int]:
        """Blocks [a, b) of the device's last part; empty if there are no hops."""
        return (self.cuts[-1], self.blocks) if self.cuts else (self.blocks, self.blocks)

    def seat_of(self, node: str) -> Seat | None:
        """The seat of a node, if it has one."""
        return next((seat for seat in self.seats if seat.node == node), None)

    def chain(self, device: str) -> list[Address]:
        """The addresses that a device's activations pass, from stage 1 to stage N."""
        return self._chains[device]

    def neighbour(self, device: str, seat: Address, step: int) -> Address:
        """The next (+1) or previous (-1) address after a seat in `device`'s chain; at both ends that is the device."""
        circle = [*self.chain(device), device]
        return circle[(circle.index(seat) + step) % len(circle)]

    @cached_property
    def _chains(self) -> dict[str, list[Address]]:
        return {
            device: [seat_address(stage, replica) for stage, replica in enumerate(entry.replicas, start=1)]
            for device, entry in self.devices.items()
        }

    @cached_property
    def replicated(self) -> bool:
        """Whether a stage has more than one seat."""
        return len(self.seats) > self.hops

    @cached_property
    def merging(self) -> frozenset[Address]:
        """The seats of all stages that have replicas: their sums are merged."""
        stages = {seat.stage for seat in self.seats if seat.replica > 0}
        return frozenset(seat.address for seat in self.seats if seat.stage in stages)

    @cached_property
    def _served(self) -> Counter[Address]:
        return Counter(address for device in self.devices for address in self.chain(device))

    def places(self, seat: Address, admit: int) -> int:
        """Return how many of `admit` admitted devices the seat may have at once, by its share of all devices."""
        return seat_admission(admit, self._served[seat] / len(self.devices))

    def with_boot(self, device: str, boot: str) -> "Plan":
        """Return the plan with another process of a device."""
        entry = replace(self.devices[device], boot=boot)
        return replace(self, devices=self.devices | {device: entry}, revision=self.revision + 1)

    def with_device(self, device: str, boot: str) -> "Plan":
        """Return the plan with one more device, served by the replicas that serve the fewest."""
        replicas = []
        for stage in range(1, self.hops + 1):
            seats = [seat for seat in self.seats if seat.stage == stage]
            replicas.append(min(seats, key=lambda seat: (self._served[seat.address], seat.replica)).replica)
        entry = DeviceEntry(boot, tuple(replicas))
        return replace(self, devices=self.devices | {device: entry}, revision=self.revision + 1)

    def boots(self) -> dict[str, tuple[str, Address]]:
        """Every participant's boot and the address of its acknowledgements."""
        known = {seat.node: (seat.boot, seat.address) for seat in self.seats}
        known |= {id: (entry.boot, id) for id, entry in self.devices.items()}
        known[ORCHESTRATOR] = (self.orchestrator, ORCHESTRATOR)
        return known
