"""Fills the seats of lost nodes: present nodes keep their seats, and standbys take the others.

If standbys are missing and the job leaves the cuts open, the chain can be shorter instead, which is planned elsewhere.
This must never change the result: the average does not depend on which node has which seat.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.machines.seating import Seating, budget_of, needed_bytes
from mpsl.plan import Plan, Seat
from mpsl.planning.plan_file import PlannedRun, PlannedSeat


@dataclass(frozen=True)
class Filled:
    """The nodes of a plan's seats; `vacant` are the seats that nobody can take, with the bytes that they need."""

    nodes: dict[Seat, Presence]
    vacant: dict[Seat, int]


def fill(plan: Plan, model: ModelBuilt, free: Sequence[Presence]) -> Filled:
    """Give every seat its own node if that is free, else the first free one whose budget is large enough."""
    by_id = {node.id: node for node in free}
    nodes = {seat: by_id[seat.node] for seat in plan.seats if seat.node in by_id}
    seated = {seat.node for seat in plan.seats}
    standbys = [node for node in free if node.id not in seated]
    vacant = {}
    for seat in plan.seats:
        if seat in nodes:
            continue
        needed = needed_bytes(plan.job, model, seat)
        fitting = [node for node in standbys if (budget := budget_of(node, plan.run)) is None or budget >= needed]
        if fitting:
            nodes[seat] = fitting[0]
            standbys.remove(fitting[0])
        else:
            vacant[seat] = needed
    return Filled(nodes, vacant)


def seating_of(plan: Plan, filled: Filled, devices: Mapping[str, Presence], boot: str) -> Seating:
    """Return the seating of the same chain with the nodes that were found; `boot` is the orchestrator's."""
    places = tuple(PlannedSeat(seat.stage, seat.replica, filled.nodes[seat].id, seat.blocks) for seat in plan.seats)
    served = {id: entry.replicas for id, entry in plan.devices.items()}
    planned = PlannedRun(plan.cuts, places, served, min(plan.admit, len(served)))
    nodes = [filled.nodes[seat] for seat in plan.seats]
    return Seating(nodes, [devices[id] for id in plan.devices], plan.run, boot, planned)


def shorter(job: Job, nodes: int) -> Job | None:
    """Return the job with as many hops as `nodes` allow; None if there is no node, or the job fixes the cuts."""
    if nodes == 0 or job.model.cuts is not None:
        return None
    replicas = min(job.fleet.replicas, nodes)
    return replace(job, fleet=replace(job.fleet, nodes=nodes, replicas=replicas))
