"""Who sits where: a fleet, a job and the facts of a model become a plan. Decides; sends nothing."""

from dataclasses import dataclass, replace

from mpsl.codecs import parse
from mpsl.cuts import even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.jobs import ModelBuilt
from mpsl.machines.seat_memory import SeatMemory, best_way, ways
from mpsl.plan import DeviceEntry, Plan, Seat
from mpsl.planning.admission import MARGIN, starting_admission

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
    seats = [
        Seat(stage, 0, node.id, node.boot, (cuts[stage - 1], cuts[stage]))
        for stage, node in enumerate(fleet.nodes[: job.hops], start=1)
    ]
    admission = _admission(job, model, seats, fleet)
    if isinstance(admission, str):
        return admission
    seats = [
        replace(seat, on_disk=way.on_disk, recompute=way.recompute)
        for seat, way in zip(seats, admission.ways, strict=True)
    ]
    edges = [model.output_bytes[cut - 1] for cut in cuts]
    # A codec may need more than the values themselves, and a slice of weights is at most one chunk.
    largest = max([*(2 * edge for edge in edges), job.wire.chunk_bytes]) + SLACK_BYTES
    for codec in (job.wire.activations, job.wire.gradients):
        parse(codec)
    entries = {device.id: DeviceEntry(device.boot, (0,) * len(seats)) for device in fleet.devices}
    return Plan(
        fleet.run, 1, fleet.boot, job, blocks, cuts, tuple(seats), entries, admission.admit, largest,
        admit_most=admission.most, shortfall=admission.shortfall,
    )  # fmt: skip


@dataclass(frozen=True)
class _Admission:
    """How many devices are in at first and at most, how each seat is filled, what a short budget costs in words."""

    admit: int
    most: int
    ways: list[SeatMemory]
    shortfall: str = ""


def _admission(job: Job, model: ModelBuilt, seats: list[Seat], fleet: Seating) -> _Admission | str:
    """Section 6 of the design with estimated compute for time, as far as the nodes' budgets allow; or a reason."""
    devices = len(fleet.devices)
    cycle = sum(model.block_costs)
    slowest = max((sum(model.block_costs[slice(*seat.blocks)]) for seat in seats), default=0.0)
    wanted = min(devices, job.fleet.admit or starting_admission(devices, cycle, slowest))
    cover = min(wanted, MARGIN * cycle / slowest) if slowest else float(wanted)
    options = [ways(model, seat.blocks, job.run) for seat in seats]
    budgets = [_budget(node) for node, _ in zip(fleet.nodes, seats, strict=False)]
    admit, tightest = wanted, 0
    for number, (seat, option, budget) in enumerate(zip(seats, options, budgets, strict=True)):
        if budget is None:
            continue
        way = best_way(option, budget, admit, cover)
        if way is None:
            return (
                f"seat {seat.address} on {seat.node}: its part needs {min(way.needed(1) for way in option):,} bytes "
                f"for one admitted device, the node's --memory-budget is {budget:,}; raise it, make batch_size "
                "smaller, or use more hops"
            )
        if way.copies(budget) < admit:
            admit, tightest = way.copies(budget), number
    # The tightest seat has decided; the others make do with no less than that takes.
    chosen = [
        next(way for way in option if budget is None or way.copies(budget) >= admit)
        for option, budget in zip(options, budgets, strict=True)
    ]
    limits = [way.copies(budget) for way, budget in zip(chosen, budgets, strict=True) if budget is not None]
    most = admit if job.fleet.admit else min([devices, *limits])
    throughput = min((way.throughput(admit, cover) for way in chosen), default=1.0)
    if throughput > 0.995:
        return _Admission(admit, most, chosen)
    slow = tightest if admit < wanted else next(number for number, way in enumerate(chosen) if way.recompute)
    again = ", activations are computed again" if chosen[slow].recompute else ""
    enough = min(way.needed(wanted) for way in options[slow] if not way.recompute)
    return _Admission(
        admit,
        most,
        chosen,
        f"the memory budget of {seats[slow].node} ({budgets[slow]:,} bytes) lets {admit} of the {wanted} devices "
        f"in at a time that cover a cycle{again}: about {1 - throughput:.0%} less throughput; "
        f"{enough:,} bytes would avoid it",
    )


def _budget(node: Presence) -> int | None:
    budget = node.info.get("memory_budget")
    return budget if isinstance(budget, int) else None
