"""The search: chooses the pairs of device cuts for a labelling, their order and their bounds, and keeps the proof.

Method: best-first branch and bound. A branch is one pair of device cuts (cuts[0], cuts[-1]); its subproblem is a
shortest path with resource constraints, which `labelling.py` solves. A narrow beam search finds a good incumbent first.
Expensive bounds are used only if cheap ones leave too much work. All pruning is safe, so the result is optimal, unless
the work exceeds MAX_WORK: then only the most promising chains are kept, and the gap to the dropped ones is reported.
"""

from dataclasses import dataclass
from math import inf

import numpy as np

from mpsl.planning.bound import MAX_NODE_SETS, SubsetCostToGo, min_admission_waves
from mpsl.planning.labelling import PRUNING_FACTOR, Effort, Incumbent, Labelling
from mpsl.planning.objective import Placement, Shape, check_shape
from mpsl.planning.problem import Problem
from mpsl.planning.stage_table import WAVES
from mpsl.planning.system import System
from mpsl.planning.vectorized_objective import EquivalentCutPairs

MAX_WORK = 10_000_000
"""The number of stages that one search judges before it keeps only the most promising chains."""

STAGES_PER_SUBSET_BOUND = 30
"""The number of stages judged in the time that `SubsetCostToGo` takes for one replica set at one block."""

FIRST_BEAM_WIDTH = 6
"""Beam width of the first pass, which only finds a good plan."""

OPTIMALITY_GAP = 1e-9
"""A value within this share of its lower bound is optimal; the difference is rounding."""

MAX_UNSORTED_PAIRS = 3
"""With more cut pairs than this, `min_admission_waves` first rules pairs out and sorts them."""


@dataclass(frozen=True)
class Solution:
    """The best placement found, its value with fluid shares, and a proven lower bound of any placement's value.

    A value is seconds per round; if cost is minimised, it is money plus a trace of seconds (`problem.TIE_WEIGHT`).
    """

    placement: Placement
    value: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether it is proven that no placement is better."""
        return self.bound >= self.value * (1 - OPTIMALITY_GAP)

    @property
    def gap(self) -> float:
        """The maximum improvement by another placement, relative to this one's value."""
        return 0.0 if self.optimal or self.value == 0 else 1 - self.bound / self.value


def solve(system: System, shape: Shape, cheapest: bool = False) -> Solution | None:
    """Return the placement with the shortest round, or with `cheapest` the least money per round; None if nothing fits.

    Raises UsageError if the shape needs more nodes or blocks than there are.
    """
    check_shape(system, shape)
    search = Search(Problem(system, shape, cheapest))
    search.run()
    best = search.incumbent
    return None if best.placement is None else Solution(best.placement, best.value, min(best.value, best.unproven))


def feasible_placement(system: System, shape: Shape) -> Placement | None:
    """Return any placement that fits, not a good one; None if there is none. Raises UsageError as `solve` does."""
    check_shape(system, shape)
    search = Search(Problem(system, shape, cheapest=False))
    search.run(until_found=True)
    return search.incumbent.placement


class Search:
    """One search of a problem; `incumbent` is its result."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.incumbent = Incumbent()
        # Without all replica sets nothing can be proven.
        self._beam_after = MAX_WORK if problem.has_all_sets else 0

    def run(self, until_found: bool = False) -> None:
        """Solve every pair of device cuts whose bound is better than the incumbent, the most promising first."""
        problem, incumbent = self.problem, self.incumbent
        if problem.cheapest and problem.shape.hops in (None, 1):
            self._try_single_stages()
        bounds, floors = problem.bounds_of_pairs()
        lowest = float(bounds.min(initial=inf))
        order = np.argsort(bounds, kind="stable")
        if len(order) > MAX_UNSORTED_PAIRS:
            best, objective = int(order[0]), problem.objective
            floor = float(floors[best])
            candidates = problem.candidates(best, floor, incumbent.value)
            Labelling(problem, incumbent, best, floor, candidates).run(Effort(FIRST_BEAM_WIDTH))
            max_round_s = problem.max_round_s(incumbent.value)
            waves = min_admission_waves(problem.table, objective.first, objective.last, max_round_s, problem.shape.hops)
            enough = np.isfinite(waves)
            objective.initial[WAVES, enough] = np.maximum(objective.initial[WAVES], waves)[enough]
            bounds, floors = problem.bounds_of_pairs()
            bounds[~enough] = inf
            order = np.argsort(bounds, kind="stable")
        equivalent = EquivalentCutPairs(problem.objective, problem.arrays, problem.kinds)
        for pair in order:
            if until_found and incumbent.placement:
                return
            if bounds[pair] < incumbent.value * PRUNING_FACTOR and not equivalent.seen_before(int(pair)):
                self._solve_pair(int(pair), float(floors[pair]), until_found)
        if not problem.has_all_sets:
            incumbent.unproven = min(incumbent.unproven, lowest)

    def _try_single_stages(self) -> None:
        """Judge all plans of one stage over all cut pairs at once, because the cheapest plan is often one of them."""
        problem, incumbent = self.problem, self.incumbent
        first, last = problem.objective.first, problem.objective.last
        pair_at = np.full((problem.system.blocks, problem.system.blocks), -1)
        pair_at[first, last] = np.arange(len(first))
        for begin in np.unique(first).tolist():
            stages = problem.table.stages(begin)
            stages = stages.take(pair_at[begin, stages.ends] >= 0)
            if len(stages.ends):
                pairs = pair_at[begin, stages.ends]
                figures = problem.first_stages(pairs, stages.figures)
                values = problem.lower_bound(pairs, figures, stages.ends, stages.ends, 0)
                best = int(np.argmin(values))
                if values[best] < incumbent.value:
                    cuts, sets = (begin, int(stages.ends[best])), [int(stages.sets[best])]
                    incumbent.found(float(values[best]), problem.placement(cuts, sets))

    def _solve_pair(self, pair: int, floor: float, until_found: bool) -> None:
        """Find the best chain between one pair of device cuts, with expensive bounds only if they are needed."""
        problem, incumbent, known = self.problem, self.incumbent, self.incumbent.value
        candidates = problem.candidates(pair, floor, known)

        def proven(width: int | None, max_work: float = inf, subsets: SubsetCostToGo | None = None) -> bool:
            labelling = Labelling(problem, incumbent, pair, floor, candidates, subsets)
            return labelling.run(Effort(width, max_work, self._beam_after))

        if proven(FIRST_BEAM_WIDTH) or (until_found and incumbent.placement):
            return
        if incumbent.value < known:
            candidates = problem.candidates(pair, floor, incumbent.value)
        affordable = STAGES_PER_SUBSET_BOUND * candidates.set_count if problem.kinds.states <= MAX_NODE_SETS else inf
        if proven(None, affordable):
            return
        for waves in candidates.waves:
            candidates = problem.candidates(pair, floor, incumbent.value, waves)
            candidates = problem.useful(pair, candidates, incumbent.value)
            if proven(None, STAGES_PER_SUBSET_BOUND * candidates.set_count):
                continue
            subsets = SubsetCostToGo(candidates, problem.kinds, problem.shape.hops)
            if not proven(FIRST_BEAM_WIDTH, subsets=subsets):
                proven(None, subsets=subsets)
