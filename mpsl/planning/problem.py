"""A search problem as arrays: the system, the constraints, and a lower bound for any partial chain.

The bound is the objective of the chain with its relaxed cost-to-go added. For a complete chain the two are equal, so
one function judges both. This file holds no search state; `search.py` decides the order of the search.
"""

from math import inf

import numpy as np

from mpsl.planning.bound import SubsetCostToGo, relaxed_cost_to_go
from mpsl.planning.candidate_stages import CandidateStages, StageLimits, candidate_stages
from mpsl.planning.node_kinds import kinds_of, replica_sets, single_sets
from mpsl.planning.objective import Placement, Shape
from mpsl.planning.service_demand import SystemArrays
from mpsl.planning.stage_table import HOPS, MAXIMUM_ROWS, PRICE, SUM_ROWS, WAVES, Array, Indices, StageTable
from mpsl.planning.system import System
from mpsl.planning.vectorized_objective import Index, VectorizedObjective

TIE_WEIGHT = 1e-9
"""The weight of the round's seconds if money is minimised: of equally cheap plans the faster one wins."""


class Problem:
    """The problem of finding the placement of `shape` with the shortest round, or with `cheapest` the least cost."""

    def __init__(self, system: System, shape: Shape, cheapest: bool) -> None:
        self.system, self.shape, self.cheapest = system, shape, cheapest
        self.arrays = SystemArrays(system)
        self.kinds = kinds_of(system)
        self.sets, self.has_all_sets = self._replica_sets()
        self.table = StageTable(system, self.arrays, self.kinds, self.sets)
        self.cost_to_go = relaxed_cost_to_go(system, self.arrays, self.kinds, self.table, shape.hops)
        firsts = [system.first_cut] if system.first_cut else range(1, system.blocks - 1)
        lasts = [system.last_cut] if system.last_cut else range(2, system.blocks)
        pairs = [(first, last) for first in firsts for last in lasts if last - first >= (shape.hops or 1)]
        self.objective = VectorizedObjective(system, self.arrays, pairs)
        self.max_hops = 1 if shape.all_in_one else system.max_hops or inf
        self.lowest_price = min(node.price for node in system.nodes)

    def _replica_sets(self) -> tuple[list[tuple[int, ...]], bool]:
        if self.shape.all_in_one:
            return [self.kinds.counts], True
        if self.shape.hops is not None:
            return single_sets(self.kinds), True
        speeds = [-node.hardware.seconds[-1] for node in self.kinds.examples]
        fastest_first = sorted(range(len(speeds)), key=lambda kind: -speeds[kind])
        return replica_sets(self.kinds, len(self.system.devices), fastest_first)

    def lower_bound(
        self,
        pair: Index,
        figures: Array,
        block: int | Indices,
        last: int | Indices,
        left: int | Indices,
        subsets: SubsetCostToGo | None = None,
    ) -> Array:
        """Return a lower bound of all completions of chains that end at `block`; it is exact if that is `last`.

        `left` is the number of remaining stages, 0 if it is free. The value is seconds per round, or money.
        """
        whole = self.cost_to_go.complete(figures, block, last, left)
        if subsets:
            subsets.complete(figures, whole, block)
        seconds = self.objective.round_s(pair, whole)
        if not self.cheapest:
            return seconds
        to_go = self.cost_to_go.money
        with np.errstate(invalid="ignore"):  # zero times infinity is NaN, which is never below a known value
            nodes = np.maximum(left, 1)  # at least one for each remaining stage
            to_come = np.maximum(to_go[last] - to_go[block], nodes * self.lowest_price * seconds)
            money = figures[PRICE] * seconds + np.where(np.equal(block, last), 0.0, to_come)
        return np.asarray(money + TIE_WEIGHT * seconds)

    def bounds_of_pairs(self) -> tuple[Array, Array]:
        """Return for every cut pair a lower bound of any plan's value, and of its busiest resource's seconds."""
        initial, first, last = self.objective.initial, self.objective.first, self.objective.last
        left = self.shape.hops or 0
        bounds = self.lower_bound(slice(None), initial, first, last, left)
        return bounds, self.objective.busiest_s(slice(None), self.cost_to_go.complete(initial, first, last, left))

    def first_stages(self, pair: Index, stages: Array) -> Array:
        """Return the figures of chains of one stage each, including the devices' part."""
        figures, initial = stages.copy(), self.objective.initial[:, pair]
        figures[MAXIMUM_ROWS] = np.maximum(figures[MAXIMUM_ROWS], initial[MAXIMUM_ROWS])
        figures[SUM_ROWS] += initial[SUM_ROWS]
        return figures

    def stages_left(self, figures: Array) -> int | Indices:
        """Return the number of stages that must follow each chain, as an index into the bounds; 0 if it is free."""
        if self.shape.hops is None:
            return 0
        return np.asarray(self.shape.hops - figures[HOPS], np.int64).clip(0)

    def max_round_s(self, value: float) -> float:
        """Return the longest round of any plan that is better than `value`."""
        return value / (self.lowest_price + TIE_WEIGHT) if self.cheapest else value

    def candidates(self, pair: int, floor: float, value: float, waves: float = 0) -> CandidateStages:
        """Return the stages that a plan better than `value` can have between this pair of device cuts.

        A load below `floor` makes no difference. With `waves`, only stages that need no more admission waves are
        returned, and chains are judged as if they needed that many.
        """
        first, last = int(self.objective.first[pair]), int(self.objective.last[pair])
        initial = self.objective.initial[:, pair]
        least = self.cost_to_go.complete(initial, first, last, self.shape.hops or 0)
        max_load, max_waves = self.objective.stage_limits(pair, least, self.max_round_s(value))
        limits = StageLimits(floor, max_load, min(max_waves, waves or inf), waves)
        return candidate_stages(self.table, first, last, limits, self.shape.hops)

    def useful(self, pair: int, candidates: CandidateStages, value: float) -> CandidateStages:
        """Return those of `candidates` on a path that may be better than `value`."""

        def better(figures: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
            chain = self.first_stages(np.array([pair]), figures)
            chain[WAVES] = np.maximum(chain[WAVES], candidates.min_waves)
            return np.asarray(self.objective.round_s(pair, chain) < self.max_round_s(value))

        return candidates.on_useful_paths(better)

    def placement(self, cuts: tuple[int, ...], sets: list[int]) -> Placement:
        """Return the placement with these cuts whose stages take these replica sets."""
        return Placement(cuts, self.kinds.nodes([self.sets[chosen] for chosen in sets]))
