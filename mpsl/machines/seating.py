"""Makes a run's plan from a fleet, a job and the facts about a model. It decides and sends nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mpsl.admission_limit import CYCLE_MARGIN, largest_admission, seat_admission, starting_admission
from mpsl.codecs import parse
from mpsl.cuts import even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.plan import DeviceEntry, Plan, Seat
from mpsl.planning.plan_file import PlannedRun, PlannedSeat
from mpsl.planning.seat_memory import SeatMemory, best_strategy, memory_strategies, part_sizes

HEADER_BYTES = 64 * 1024
"""Room for headers in the largest message."""
FLOAT_BYTES = 4
"""Bytes of an fp32 value."""


@dataclass(frozen=True)
class Seating:
    """The nodes and devices that take part, in order, the run, and the seats that were planned before, if any.

    If they were, the job already has the cuts and the G of that plan.
    """

    nodes: list[Presence]
    devices: list[Presence]
    run: str
    boot: str
    planned: PlannedRun | None = None


def seat_everyone(job: Job, model: ModelBuilt, fleet: Seating) -> Plan | str:
    """Return the plan, or the reason (what, which limit, how to fix) why there is none."""
    blocks = len(model.block_costs)
    try:
        cuts = tuple(even_cuts(model.block_costs, job.hops)) if job.model.cuts is None else job.model.cuts
    except UsageError as error:
        return str(error)
    if fleet.planned is None:
        places, served = dealt(job, cuts, [node.id for node in fleet.nodes], [device.id for device in fleet.devices])
    else:
        places, served = fleet.planned.seats, fleet.planned.devices
    boots = {member.id: member.boot for member in (*fleet.nodes, *fleet.devices)}
    seats = [Seat(place.stage, place.replica, place.node, boots[place.node], place.blocks) for place in places]
    demands = [_demand(job, model, seat, served, fleet) for seat in seats]
    admission = _admission(job, model, demands, len(served))
    if isinstance(admission, str):
        return admission
    seats = [
        replace(seat, on_disk=strategy.on_disk, recompute=strategy.recompute)
        for seat, strategy in zip(seats, admission.strategies, strict=True)
    ]
    edges = [model.output_bytes[cut - 1] for cut in cuts]
    # A tensor counts both encoded and decoded; a slice of weights is at most one chunk.
    codecs = [parse(spec) for spec in (job.wire.activations, job.wire.gradients, "fp32")]
    tensors = [codec.max_bytes((-(-edge // FLOAT_BYTES),)) for codec in codecs for edge in edges]
    largest = max([*tensors, job.wire.chunk_bytes]) + HEADER_BYTES
    entries = {id: DeviceEntry(boots[id], replicas) for id, replicas in served.items()}
    return Plan(
        fleet.run, 1, fleet.boot, job, blocks, cuts, tuple(seats), entries, admission.admit, largest,
        admit_most=admission.most, shortfall=admission.shortfall, digests=model.digests,
    )  # fmt: skip


def dealt(
    job: Job, cuts: tuple[int, ...], nodes: list[str], devices: list[str]
) -> tuple[tuple[PlannedSeat, ...], dict[str, tuple[int, ...]]]:
    """Seats without a plan: consecutive nodes replicate a stage, and devices are dealt to them in turn."""
    replicas = job.fleet.replicas
    places = tuple(
        PlannedSeat(stage, replica, nodes[(stage - 1) * replicas + replica], (cuts[stage - 1], cuts[stage]))
        for stage in range(1, job.hops + 1)
        for replica in range(replicas)
    )
    return places, {id: (number % replicas,) * job.hops for number, id in enumerate(devices)}


@dataclass(frozen=True)
class _Demand:
    """The demand on a seat: its share of the devices, their cost, its memory strategies, and its budget."""

    seat: Seat
    share: float
    cost: float
    options: tuple[SeatMemory, ...]
    budget: int | None

    def copies(self, admit: int) -> int:
        """Return how many of `admit` devices are at this seat at once."""
        return seat_admission(admit, self.share)


def _demand(job: Job, model: ModelBuilt, seat: Seat, served: dict[str, tuple[int, ...]], fleet: Seating) -> _Demand:
    devices = sum(replicas[seat.stage - 1] == seat.replica for replicas in served.values())
    # A plan may leave a slow replica without devices; it counts as if it had one.
    share = max(1, devices) / len(served)
    cost = sum(model.block_costs[slice(*seat.blocks)]) * share
    budget = budget_of(next(node for node in fleet.nodes if node.id == seat.node), fleet.run)
    return _Demand(seat, share, cost, _strategies(job, model, seat), budget)


def budget_of(node: Presence, run: str) -> int | None:
    """Bytes that a node can give to a seat of `run`, with what it has promised to that run before; None: no limit."""
    free, budget, promised = (node.info.get(key) for key in ("memory_free", "memory_budget", "promised"))
    if not isinstance(free, int):
        return budget if isinstance(budget, int) else None
    before = promised.get(run) if isinstance(promised, Mapping) else None
    return free + (before if isinstance(before, int) and before > 0 else 0)


def needed_bytes(job: Job, model: ModelBuilt, seat: Seat) -> int:
    """The fewest bytes with which a node can serve a seat: one device admitted at a time."""
    return min(option.needed(1) for option in _strategies(job, model, seat))


def _strategies(job: Job, model: ModelBuilt, seat: Seat) -> tuple[SeatMemory, ...]:
    return memory_strategies(part_sizes(model, seat.blocks), job.run.micro_batches)


@dataclass(frozen=True)
class _Admission:
    """How many devices are admitted, each seat's memory strategy, and the price of a short budget in words."""

    admit: int
    most: int
    strategies: list[SeatMemory]
    shortfall: str = ""


def _admission(job: Job, model: ModelBuilt, demands: list[_Demand], devices: int) -> _Admission | str:
    """Choose G and the memory strategies by estimated compute within the nodes' budgets, or return a reason."""
    cycle = sum(model.block_costs)
    slowest = max((demand.cost for demand in demands), default=0.0)
    wanted = min(devices, job.fleet.admit or starting_admission(devices, cycle, slowest))
    cover = min(wanted, CYCLE_MARGIN * cycle / slowest) if slowest else float(wanted)
    admit, tightest = wanted, 0
    for number, demand in enumerate(demands):
        if demand.budget is None:
            continue
        strategy = best_strategy(demand.options, demand.budget, demand.copies(admit), cover * demand.share)
        if strategy is None:
            return (
                f"seat {demand.seat.address} on {demand.seat.node}: its part needs "
                f"{min(option.needed(1) for option in demand.options):,} bytes for one admitted device, the node's "
                f"--memory-budget is {demand.budget:,}; raise it, reduce batch_size, or use more hops"
            )
        possible = largest_admission(strategy.copies(demand.budget), demand.share, devices)
        if possible < admit:
            admit, tightest = possible, number
    # The tightest seat has determined G; the others take the fastest strategy that has room for it.
    chosen = [
        next(
            option
            for option in demand.options
            if demand.budget is None or option.copies(demand.budget) >= demand.copies(admit)
        )
        for demand in demands
    ]
    limits = [
        largest_admission(strategy.copies(demand.budget), demand.share, devices)
        for strategy, demand in zip(chosen, demands, strict=True)
        if demand.budget is not None
    ]
    most = admit if job.fleet.admit else min([devices, *limits])
    filled = zip(chosen, demands, strict=True)
    throughput = min(
        (strategy.throughput(seat.copies(admit), cover * seat.share) for strategy, seat in filled), default=1.0
    )
    if throughput > 0.995:
        return _Admission(admit, most, chosen)
    slow = tightest if admit < wanted else next(number for number, strategy in enumerate(chosen) if strategy.recompute)
    again = ", activations are computed again" if chosen[slow].recompute else ""
    short = demands[slow]
    enough = min(option.needed(short.copies(wanted)) for option in short.options if not option.recompute)
    return _Admission(
        admit,
        most,
        chosen,
        f"the memory budget of {short.seat.node} ({short.budget:,} bytes) lets {admit} of the {wanted} devices "
        f"in at a time that cover a cycle{again}: about {1 - throughput:.0%} less throughput; "
        f"{enough:,} bytes would avoid it",
    )
