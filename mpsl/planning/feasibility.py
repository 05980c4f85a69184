"""Checks whether a given plan fits. If nothing fits, explains which part lacks how many bytes.

The minimum missing memory is found by bisection over the nodes' memory; each step asks the search for any placement
that fits. Reasons are sentences for people; nothing here looks for a good plan.
"""

import dataclasses
from collections.abc import Sequence
from math import ceil

from mpsl.admission_limit import seat_admission
from mpsl.errors import UsageError
from mpsl.names import nearest
from mpsl.planning.objective import Placement, Prediction, SeatLoad, Shape, fluid_loads, predict, stages_of
from mpsl.planning.plan_file import PlannedRun
from mpsl.planning.search import feasible_placement
from mpsl.planning.seat_memory import GIB
from mpsl.planning.service_demand import device_demand, seat_demand, whole_model_demand
from mpsl.planning.system import Device, System

PRECISION_BYTES = 2**10
"""The minimum missing memory is found to within this many bytes."""
UNLIMITED_BYTES = 2.0**200
"""More bytes than any part needs."""

MORE_MEMORY_HINT = "Give the nodes more memory, add nodes, cut into more hops, or leave more blocks to the devices"


def shortage(system: System, shape: Shape) -> str:
    """Return why no placement of `shape` fits `system`, in a sentence with a remedy."""
    if shape.hops == 0:
        return _short_device(system, [()])
    if feasible_placement(_with_more(system, UNLIMITED_BYTES), shape) is None:
        firsts = [system.first_cut] if system.first_cut else range(1, system.blocks - 1)
        lasts = [system.last_cut] if system.last_cut else range(2, system.blocks)
        return _short_device(
            system, [(first, last) for first in firsts for last in lasts if last - first >= (shape.hops or 1)]
        )
    low, high = 0, PRECISION_BYTES
    while feasible_placement(_with_more(system, high), shape) is None:
        low, high = high, 2 * high
    while high - low > PRECISION_BYTES:
        middle = (low + high) // 2
        low, high = (low, middle) if feasible_placement(_with_more(system, middle), shape) else (middle, high)
    nearest = feasible_placement(_with_more(system, high), shape)
    over = seats_over(system, nearest, fluid_loads(system, nearest)) if nearest else []
    if not over:
        return "no placement was found that fits the nodes' memory; with this many kinds of nodes not all are tried"
    return f"no placement fits the nodes' memory; what comes nearest: {'; '.join(over)}. {MORE_MEMORY_HINT}"


def judge(system: System, planned: PlannedRun, where: str) -> Prediction:
    """Return the objective's prediction for `planned`, with its G. Raises UsageError with `where` and the shortage."""
    check_members(system, planned, where)
    index = {node.id: place for place, node in enumerate(system.nodes)}
    stages = [
        tuple(index[seat.node] for seat in planned.seats if seat.stage == stage)
        for stage in range(1, len(planned.cuts))
    ]
    chosen = [[planned.devices[device.id][stage] for device in system.devices] for stage in range(len(stages))]
    loads = [
        [_load(system, replicas, replica) for replica in range(len(nodes))]
        for nodes, replicas in zip(stages, chosen, strict=True)
    ]
    fixed, placement = dataclasses.replace(system, admit=planned.admit), Placement(planned.cuts, tuple(stages))
    prediction = predict(fixed, placement, loads, chosen)
    if prediction is None:
        over = [*devices_over(fixed, placement.cuts), *seats_over(fixed, placement, loads)]
        raise UsageError(f"{where}: does not fit this fleet's memory: {'; '.join(over)}. {MORE_MEMORY_HINT}")
    return prediction


def _load(system: System, replicas: Sequence[int], replica: int) -> SeatLoad:
    served = [device.batches for device, its in zip(system.devices, replicas, strict=True) if its == replica]
    return SeatLoad(float(sum(served)), float(len(served)))


def check_members(system: System, planned: PlannedRun, where: str) -> None:
    """Check that the cuts fit the model, that the fleet has the nodes, and that the devices are exactly the fleet's."""
    if planned.cuts and not (planned.cuts[0] >= 1 and planned.cuts[-1] <= system.blocks - 1):
        raise UsageError(
            f"{where}: cuts {list(planned.cuts)} in a model of {system.blocks} blocks; "
            f"cuts lie within 1 and {system.blocks - 1}: is it the plan of another model?"
        )
    nodes, devices = [node.id for node in system.nodes], [device.id for device in system.devices]
    for seat in planned.seats:
        if seat.node not in nodes:
            hint = nearest(seat.node, nodes) if nodes else "the fleet has no nodes"
            raise UsageError(f"{where}: node {seat.node!r} is not in the fleet; {hint}")
    for id in planned.devices:
        if id not in devices:
            raise UsageError(f"{where}: device {id!r} is not in the fleet; {nearest(id, devices)}")
    missing = [id for id in devices if id not in planned.devices]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"{where}: has no place for device {missing[0]!r}{more} of the fleet; plan again")


def seats_over(system: System, placement: Placement, loads: Sequence[Sequence[SeatLoad]]) -> list[str]:
    """Return the blocks, the node and the missing bytes of every seat whose memory is too small for its load."""
    admit, devices = system.admit or 1, len(system.devices)
    over = []
    for ((start, end), stage), of_stage in zip(stages_of(placement), loads, strict=True):
        for node, load in zip(stage, of_stage, strict=True):
            figures, terms = system.nodes[node], seat_demand(system, system.nodes[node], start, end)
            copies = max(1, seat_admission(admit, load.devices / devices))
            needed = terms.memory.needed(copies)
            if needed > figures.memory:
                over.append(
                    f"blocks [{start}, {end}) with {copies} device{'s' * (copies > 1)} admitted need {needed} bytes on "
                    f"node {figures.id!r}, {ceil(needed - figures.memory)} over its {int(figures.memory)}"
                )
    return over


def devices_over(system: System, cuts: Sequence[int]) -> list[str]:
    """Return the device that lacks the most memory for its parts, if any: the parts, and the missing bytes."""
    over, device = _most_missing(system, cuts)
    if over <= 0:
        return []
    kept = f"blocks [0, {cuts[0]}) and [{cuts[-1]}, {system.blocks})" if cuts else "the whole model"
    return [
        f"{kept} need {round(device.memory + over)} bytes on device {device.id!r}, {ceil(over)} over its "
        f"{device.memory / GIB:g} GiB"
    ]


def _with_more(system: System, extra: float) -> System:
    nodes = tuple(dataclasses.replace(node, memory=node.memory + extra) for node in system.nodes)
    return dataclasses.replace(system, nodes=nodes)


def _short_device(system: System, cuts: Sequence[tuple[int, ...]]) -> str:
    """Describe the device cuts with the smallest shortage at the device that lacks the most memory."""
    nearest = min(cuts, key=lambda each: _most_missing(system, each)[0])
    over = "; ".join(devices_over(system, nearest))
    return f"no placement fits the devices' memory; what comes nearest: {over}. Leave the devices fewer blocks"


def _most_missing(system: System, cuts: Sequence[int]) -> tuple[float, Device]:
    """Return the largest shortage in bytes, negative if all fit, and its device."""
    terms = [
        device_demand(system, device, cuts[0], cuts[-1]) if cuts else whole_model_demand(system, device)
        for device in system.devices
    ]
    missing = [(each.memory_bytes - device.memory, device) for each, device in zip(terms, system.devices, strict=True)]
    return max(missing, key=lambda each: each[0])
