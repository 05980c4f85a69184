"""Plans for a system: search with fluid shares, whole devices for replicas, prediction. All commands call this.

The search treats devices as divisible. Here whole devices go to replicas, longest processing time first (Graham, Bounds
on Multiprocessing Timing Anomalies, 1969), and the objective judges the result. Nothing here prints or simulates.
"""

import dataclasses
from dataclasses import dataclass
from math import inf

from mpsl.admission_limit import seat_admission
from mpsl.errors import UsageError
from mpsl.planning.feasibility import shortage
from mpsl.planning.objective import Placement, Prediction, SeatLoad, Shape, fluid_loads, predict, stages_of
from mpsl.planning.plan_file import Bottleneck, PlanFile, PlannedSeat, Predicted
from mpsl.planning.search import Solution, solve
from mpsl.planning.service_demand import SeatDemand, seat_demand
from mpsl.planning.system import System


@dataclass(frozen=True)
class Assignment:
    """replicas[k][d]: the replica of stage k that serves device d; loads[k][r]: the load of its replica r."""

    replicas: tuple[tuple[int, ...], ...]
    loads: tuple[tuple[SeatLoad, ...], ...]


def plan(system: System, shape: Shape, cheapest: bool = False) -> PlanFile:
    """Return the best plan of `shape`: the shortest round, or with `cheapest` the least money per round.

    Raises UsageError if the shape needs too much, or with the part that does not fit and the missing bytes.
    """
    solution = _without_hops(system) if shape.hops == 0 else solve(system, shape, cheapest)
    fluid = _predict_fluid(system, solution.placement) if solution else None
    if solution is None or fluid is None:
        raise UsageError(shortage(system, shape))
    if not cheapest:
        solution = dataclasses.replace(solution, placement=_cheaper_nodes(system, solution.placement))
    placement = solution.placement
    assignment = assign_devices(system, placement)
    whole = _predict_whole(system, placement, assignment)
    if whole is None and (other := _without_replicas(system, shape, cheapest, solution.bound)):
        # Only if `admit` is fixed: whole devices may overfill a seat that has room for fluid shares.
        solution, placement = other, other.placement
        fluid, assignment = _predict_fluid(system, placement), assign_devices(system, placement)
        whole = _predict_whole(system, placement, assignment)
    if whole is None or fluid is None:
        relaxed = _predict_whole(dataclasses.replace(system, admit=None), placement, assignment)
        largest = relaxed.admit if relaxed else 0
        raise UsageError(
            f"job: admit = {system.admit} fits only if devices could be divided; "
            f"with whole ones the seats hold {largest}: set admit = {largest}"
        )
    found = _plan_file(system, placement, assignment, whole, fluid)
    bound = min(whole.round_s, fluid.round_s * (1 - solution.gap))
    return dataclasses.replace(found, lower_bound_s=bound, optimal=solution.optimal, gap=solution.gap)


def _plan_file(
    system: System, placement: Placement, assignment: Assignment, whole: Prediction, fluid: Prediction
) -> PlanFile:
    """Return the placement as a plan without proof."""
    return PlanFile(
        cuts=placement.cuts,
        seats=tuple(
            PlannedSeat(stage, replica, system.nodes[node].id, part)
            for stage, (part, nodes) in enumerate(stages_of(placement), start=1)
            for replica, node in enumerate(nodes)
        ),
        devices={
            device.id: tuple(stage[place] for stage in assignment.replicas)
            for place, device in enumerate(system.devices)
        },
        admit=whole.admit,
        predicted=_predicted(system, whole, fluid),
        lower_bound_s=0.0,
        optimal=False,
        gap=1.0,
    )


def plan_of(system: System, placement: Placement) -> PlanFile | None:
    """Return the placement as a plan with whole devices, without proof; None if it does not fit."""
    assignment = assign_devices(system, placement)
    whole, fluid = _predict_whole(system, placement, assignment), _predict_fluid(system, placement)
    return _plan_file(system, placement, assignment, whole, fluid) if whole and fluid else None


def value(found: PlanFile, cheapest: bool) -> float:
    """Return the minimised value: seconds or money per round."""
    return found.predicted.cost if cheapest else found.predicted.round_s


def _cheaper_nodes(system: System, placement: Placement) -> Placement:
    """Return the chain with cheaper nodes, if its round is no longer with them."""
    taken = {node for stage in placement.stages for node in stage}
    # The first node of each kind stands for all of them.
    free = {
        dataclasses.replace(node, id=""): place
        for place, node in reversed(list(enumerate(system.nodes)))
        if place not in taken
    }
    dearest = max((system.nodes[node].price for node in taken), default=0.0)
    if all(kind.price >= dearest for kind in free):
        return placement
    longest = _seconds(system, placement)
    for stage, nodes in enumerate(placement.stages):
        for replica, node in enumerate(nodes):
            for kind, other in sorted(free.items(), key=lambda item: item[0].price):
                if kind.price >= system.nodes[node].price:
                    break
                other_placement = _replaced(placement, stage, replica, other)
                if all(now <= before for now, before in zip(_seconds(system, other_placement), longest, strict=True)):
                    return _cheaper_nodes(system, other_placement)
    return placement


def _replaced(placement: Placement, stage: int, replica: int, node: int) -> Placement:
    stages = [list(nodes) for nodes in placement.stages]
    stages[stage][replica] = node
    return Placement(placement.cuts, tuple(map(tuple, stages)))


def _seconds(system: System, placement: Placement) -> tuple[float, float]:
    """Return the value with divided and with whole devices; inf if they do not fit."""
    whole = _predict_whole(system, placement, assign_devices(system, placement))
    fluid = _predict_fluid(system, placement)
    return (inf if fluid is None else fluid.round_s, inf if whole is None else whole.round_s)


def _without_replicas(system: System, shape: Shape, cheapest: bool, bound: float) -> Solution | None:
    """Return the best chain without replicas, which needs no division of devices; `bound` is that of all plans."""
    first, last = system.first_cut or 1, system.last_cut or system.blocks - 1
    max_hops = min(len(system.nodes), last - first, system.max_hops or last - first)
    lengths = range(1, max_hops + 1) if shape.hops is None and not shape.all_in_one else ()
    found = [solution for hops in lengths if (solution := solve(system, Shape(hops), cheapest))]
    best = min(found, key=lambda solution: solution.value, default=None)
    return Solution(best.placement, best.value, min(bound, best.value)) if best else None


def _without_hops(system: System) -> Solution | None:
    if system.first_cut is not None or system.last_cut is not None:
        raise UsageError("job: first_cut and last_cut leave blocks to nodes, so 0 hops are impossible; remove them")
    placement = Placement((), ())
    prediction = _predict_fluid(system, placement)
    return Solution(placement, prediction.round_s, prediction.round_s) if prediction else None


def _predict_whole(system: System, placement: Placement, assignment: Assignment) -> Prediction | None:
    return predict(system, placement, assignment.loads, assignment.replicas)


def _predict_fluid(system: System, placement: Placement) -> Prediction | None:
    return predict(system, placement, fluid_loads(system, placement))


def _predicted(system: System, whole: Prediction, fluid: Prediction) -> Predicted:
    return Predicted(
        batch_s=whole.batch_s,
        round_s=whole.round_s,
        bottleneck=Bottleneck(*whole.bottleneck),
        bottleneck_s=whole.bottleneck_s / system.batches,
        node_memory_bytes=whole.node_bytes,
        cost=whole.cost,
        rounding_loss=whole.round_s / fluid.round_s - 1 if fluid.round_s else 0.0,
    )


def assign_devices(system: System, placement: Placement) -> Assignment:
    """Assign each stage's devices, those with the most batches first, to the replica that then finishes first.

    Method: longest processing time first (Graham, 1969).

    If the job fixes the number of admitted devices, a replica gets no more than its memory allows, unless all replicas
    are full.
    """
    replicas, loads = [], []
    for part, stage in stages_of(placement):
        seats = [seat_demand(system, system.nodes[node], *part) for node in stage]
        limits = [_max_devices(system, node, seat) for node, seat in zip(stage, seats, strict=True)]
        chosen, load = _longest_first([device.batches for device in system.devices], seats, limits)
        replicas.append(tuple(chosen))
        loads.append(tuple(load))
    return Assignment(tuple(replicas), tuple(loads))


def _max_devices(system: System, node: int, seat: SeatDemand) -> int:
    devices = len(system.devices)
    if system.admit is None:
        return devices
    copies = seat.memory.copies(system.nodes[node].memory)
    served = range(devices, 0, -1)
    return next((count for count in served if seat_admission(system.admit, count / devices) <= copies), 0)


def _longest_first(batches: list[int], seats: list[SeatDemand], limits: list[int]) -> tuple[list[int], list[SeatLoad]]:
    loads = [SeatLoad(0.0, 0.0) for _ in seats]
    chosen = [0] * len(batches)
    for device in sorted(range(len(batches)), key=lambda device: -batches[device]):
        more = [SeatLoad(load.batches + batches[device], load.devices + 1) for load in loads]
        done = [seat.full_load_s(load.batches, load.devices) for seat, load in zip(seats, more, strict=True)]
        best = min(
            range(len(seats)),
            key=lambda seat: (loads[seat].devices >= limits[seat], done[seat], more[seat].devices),
        )
        chosen[device], loads[best] = best, more[best]
    return chosen, loads
