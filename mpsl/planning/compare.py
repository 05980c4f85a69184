"""The same nodes used in the ways that the papers compare: one hop, one hop scaled out, many hops, and the best mix."""

from dataclasses import dataclass

from mpsl.errors import UsageError
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.planner import plan
from mpsl.planning.shape import Shape
from mpsl.planning.system import System


@dataclass(frozen=True)
class Row:
    """One way to use the nodes; figures are None, and `reason` says why, where it cannot be."""

    name: str
    shape: str
    """Replicas of each stage, as in `2 × 3 × 1`."""
    round_s: float | None
    peak_node_bytes: int | None
    cost: float | None
    rounding_loss: float = 0.0
    reason: str | None = None


def compare(system: System, cheapest: bool = False, hops: int | None = None) -> list[Row]:
    """One row each for one hop, one hop with every node as a replica, N hops, and the best of hops × replicas.

    N is `hops`, or as many as the nodes, the blocks and the job's max_hops allow.
    """
    room = (system.last_cut or system.blocks - 1) - (system.first_cut or 1)
    most = hops or max(1, min(len(system.nodes), room, system.max_hops or room))
    ways = [
        ("one hop", Shape(1)),
        (f"one hop, {len(system.nodes)} replicas", Shape(all_in_one=True)),
        (f"{most} hops", Shape(most)),
        ("best of hops × replicas", Shape()),
    ]
    rows = [_row(system, name, shape, cheapest) for name, shape in ways]
    if rows[-1].rounding_loss:
        # Divided devices make a plan the best that whole ones may not: then a chain without replicas may be better.
        chains = [_row(system, rows[-1].name, Shape(number), cheapest) for number in range(1, most + 1)]
        possible = [row for row in (rows[-1], *chains) if row.round_s is not None]
        rows[-1] = min(possible, key=lambda row: (row.cost if cheapest else row.round_s) or 0.0)
    return rows


def replicas_of(found: PlanFile) -> list[int]:
    """How many replicas each stage of a plan has."""
    return [sum(seat.stage == stage for seat in found.seats) for stage in range(1, len(found.cuts))]


def _row(system: System, name: str, shape: Shape, cheapest: bool) -> Row:
    try:
        found = plan(system, shape, cheapest)
    except UsageError as error:
        return Row(name, "-", None, None, None, reason=str(error))
    peak = max(found.predicted.node_memory_bytes.values(), default=0)
    shown = " × ".join(map(str, replicas_of(found)))
    return Row(name, shown, found.predicted.round_s, peak, found.predicted.cost, found.predicted.rounding_loss)
