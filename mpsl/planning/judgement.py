"""The objective's judgement of a plan that someone brings, held against the fleet that it is to run on."""

import dataclasses
from collections.abc import Sequence

from mpsl.errors import UsageError
from mpsl.names import nearest
from mpsl.planning.objective import Load, Placement, Prediction, predict
from mpsl.planning.plan_file import PlannedRun
from mpsl.planning.shortage import WAYS_OUT, devices_over, seats_over
from mpsl.planning.system import System


def judge(system: System, planned: PlannedRun, where: str) -> Prediction:
    """What the objective says of `planned`, with its G. Raises UsageError that names `where` and what does not fit."""
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
        raise UsageError(f"{where}: does not fit this fleet's memory: {'; '.join(over)}. {WAYS_OUT}")
    return prediction


def _load(system: System, replicas: Sequence[int], replica: int) -> Load:
    served = [device.batches for device, its in zip(system.devices, replicas, strict=True) if its == replica]
    return Load(float(sum(served)), float(len(served)))


def check_members(system: System, planned: PlannedRun, where: str) -> None:
    """That the plan's cuts are the model's, its nodes the fleet's, and its devices all of the fleet's and no others."""
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
        raise UsageError(f"{where}: has no place for device {missing[0]!r}{more} of the fleet; plan it anew")
