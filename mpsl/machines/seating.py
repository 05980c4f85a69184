"""Who sits where: a fleet, a job and the facts of a model become a plan. Decides; sends nothing."""

from dataclasses import dataclass

from mpsl.codecs import parse
from mpsl.cuts import even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.jobs import ModelBuilt
from mpsl.plan import DeviceEntry, Plan, Seat
from mpsl.planning.admission import starting_admission

SLACK_BYTES = 64 * 1024
"""Room for headers in the largest message."""


@dataclass(frozen=True)
class Seating:
    """The nodes and devices that take part, in order, and whose run it is."""

    nodes: list[Presence]
    devices: list[Presence]
    run: str
    boot: str


def seat_everyone(job: Job, model: ModelBuilt, fleet: Seating) -> Plan | str:
    """The plan; a reason (what, which limit, how to fix) where there can be none."""
    blocks = len(model.block_costs)
    try:
        cuts = tuple(even_cuts(model.block_costs, job.hops)) if job.model.cuts is None else job.model.cuts
    except UsageError as error:
        return str(error)
    seats = tuple(
        Seat(stage, 0, node.id, node.boot, (cuts[stage - 1], cuts[stage]))
        for stage, node in enumerate(fleet.nodes[: job.hops], start=1)
    )
    admit = job.fleet.admit or _starting_admission(job, model, seats)
    for seat, node in zip(seats, fleet.nodes, strict=False):
        budget = node.info.get("memory_budget")
        if isinstance(budget, int):
            fixed, each = seat_bytes(model, seat.blocks)
            fitting = max(0, (budget - fixed) // each)
            if fitting == 0:
                return (
                    f"seat {seat.address} on {node.id}: its part needs {fixed + each:,} bytes for one admitted device, "
                    f"the node's --memory-budget is {budget:,}; raise the budget, make batch_size smaller, or use more hops"
                )
            admit = min(admit, fitting)
    edges = [model.output_bytes[cut - 1] for cut in cuts]
    # A codec may need more than the values themselves, and a slice of weights is at most one chunk.
    largest = max([*(2 * edge for edge in edges), job.wire.chunk_bytes]) + SLACK_BYTES
    for codec in (job.wire.activations, job.wire.gradients):
        parse(codec)
    entries = {device.id: DeviceEntry(device.boot, (0,) * len(seats)) for device in fleet.devices}
    return Plan(fleet.run, 1, fleet.boot, job, blocks, cuts, seats, entries, min(admit, len(entries)), largest)


def seat_bytes(model: ModelBuilt, blocks: tuple[int, int]) -> tuple[int, int]:
    """Bytes that a seat needs whoever is admitted (committed part, sum, gradients), and for each admitted device."""
    part = slice(*blocks)
    state = sum(model.state_bytes[part])
    edges = model.output_bytes[blocks[0] - 1] + model.output_bytes[blocks[1] - 1]
    each = state + sum(model.optimizer_bytes[part]) + sum(model.stored_bytes[part]) + 2 * edges
    return 3 * state, each


def _starting_admission(job: Job, model: ModelBuilt, seats: tuple[Seat, ...]) -> int:
    """Section 6 of the design, with estimated compute for time."""
    slowest = max((sum(model.block_costs[slice(*seat.blocks)]) for seat in seats), default=0.0)
    return starting_admission(job.fleet.devices, sum(model.block_costs), slowest)
