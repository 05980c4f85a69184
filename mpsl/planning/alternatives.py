"""Finds other good plans beside the best one, for a judge that knows more than the formula, such as the simulator.

They are the best plans of other structures, with other device cuts, or, if those are fixed, with other cuts and nodes
between them. It does not choose among them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from mpsl.errors import OutOfTime, UsageError
from mpsl.planning.objective import Placement, Shape
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.planner import plan, plan_of, value
from mpsl.planning.problem import Problem
from mpsl.planning.search import OPTIMALITY_GAP
from mpsl.planning.system import System

MAX_CHAINS, MAX_CUT_PAIRS = 4, 8
"""The maximum hops of the chains, and the maximum number of other pairs of device cuts."""
MAX_INNER, MAX_JUDGED = 8, 200
"""Plans that differ between the device cuts: how many are returned, and how many are judged."""


def alternatives(
    system: System,
    shape: Shape,
    best: PlanFile,
    cheapest: bool = False,
    is_late: Callable[[], bool] = lambda: False,
) -> list[PlanFile]:
    """Return other good plans of `shape`, best first, each with its gap to the bound that was proven for `best`.

    Raises OutOfTime once `is_late` returns true; it is called between two plans.
    """
    found: list[PlanFile] = []
    for other in _others(system, shape, best, cheapest):
        if is_late():
            raise OutOfTime(f"the time was over after {len(found)} other plans")
        if other is not None and all(
            (other.cuts, other.seats) != (known.cuts, known.seats) for known in (best, *found)
        ):
            found.append(other)
    least = _fluid_value(best, cheapest) * (1 - best.gap)
    return sorted((_held_against(least, other, cheapest) for other in found), key=lambda other: value(other, cheapest))


def _others(system: System, shape: Shape, best: PlanFile, cheapest: bool) -> Iterator[PlanFile | None]:
    if shape.hops == 0:
        return
    for narrower, its_shape in _narrower(system, shape, best, cheapest):
        try:
            yield plan(narrower, its_shape, cheapest)
        except UsageError:
            yield None
    if system.first_cut is not None and system.last_cut is not None:
        inner: list[PlanFile] = []
        for placement in _inner(system, best):
            found = plan_of(system, placement)
            if found is not None:
                inner.append(found)
            yield None
        yield from sorted(inner, key=lambda found: value(found, cheapest))[:MAX_INNER]


def _narrower(system: System, shape: Shape, best: PlanFile, cheapest: bool) -> Iterator[tuple[System, Shape]]:
    """Yield plans of other structures and other device cuts, the most promising by their lower bound."""
    if shape == Shape():
        yield from ((system, Shape(hops)) for hops in range(1, MAX_CHAINS + 1))
        yield system, Shape(all_in_one=True)
    problem = Problem(system, shape, cheapest)
    bounds, _ = problem.bounds_of_pairs()
    for pair in np.argsort(bounds, kind="stable")[: MAX_CUT_PAIRS + 1]:
        first, last = int(problem.objective.first[pair]), int(problem.objective.last[pair])
        if (first, last) != (best.cuts[0], best.cuts[-1]):
            yield dataclasses.replace(system, first_cut=first, last_cut=last), shape


def _inner(system: System, best: PlanFile) -> Iterator[Placement]:
    """Yield the best placement with two different nodes exchanged, or with one inner cut moved, near ones first."""
    cuts = best.cuts
    index = {node.id: place for place, node in enumerate(system.nodes)}
    stages = [
        tuple(index[seat.node] for seat in best.seats if seat.stage == stage) for stage in range(1, len(best.cuts))
    ]
    moved = [
        (abs(cut - cuts[number]), (*cuts[:number], cut, *cuts[number + 1 :]))
        for number in range(1, len(cuts) - 1)
        for cut in range(cuts[number - 1] + 1, cuts[number + 1])
        if cut != cuts[number]
    ]
    seats = [(stage, replica) for stage, nodes in enumerate(stages) for replica in range(len(nodes))]
    kinds = {place: dataclasses.replace(node, id="") for place, node in enumerate(system.nodes)}
    exchanged = [
        ((a, b), (c, d))
        for (a, b), (c, d) in combinations(seats, 2)
        if a != c and kinds[stages[a][b]] != kinds[stages[c][d]]
    ][: MAX_JUDGED // 2]
    for (a, b), (c, d) in exchanged:
        nodes = [list(stage) for stage in stages]
        nodes[a][b], nodes[c][d] = nodes[c][d], nodes[a][b]
        yield Placement(cuts, tuple(map(tuple, nodes)))
    for _, changed in sorted(moved)[: MAX_JUDGED - len(exchanged)]:
        yield Placement(changed, tuple(stages))


def _fluid_value(found: PlanFile, cheapest: bool) -> float:
    return value(found, cheapest) / (1 + found.predicted.rounding_loss)


def _held_against(least: float, found: PlanFile, cheapest: bool) -> PlanFile:
    """Return the plan with its gap to the bound of all plans; its own proof covers fewer plans."""
    fluid = _fluid_value(found, cheapest)
    gap = max(0.0, 1 - least / fluid) if fluid else 0.0
    fluid_round_s = _fluid_value(found, cheapest=False)
    bound = min(found.predicted.round_s, fluid_round_s * (1 - gap))
    optimal = gap <= OPTIMALITY_GAP
    return dataclasses.replace(found, lower_bound_s=bound, optimal=optimal, gap=0.0 if optimal else gap)
