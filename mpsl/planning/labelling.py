"""Labelling: grows the chains between one pair of device cuts stage by stage, all chains at a block at once, in arrays.

Method: the labelling algorithm for shortest paths with resource constraints (Irnich and Desaulniers, in Column
Generation, 2005). A chain is a label, and a stage extends it. A chain is dropped if its lower bound is no better
than the incumbent (branch and bound), or if another chain at the same block dominates it: at least as good in every
figure, with the same nodes used or some of them. Both are safe. With a width it is a beam search, which proves nothing.
It must know nothing of other pairs of device cuts.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.bound import SubsetCostToGo
from mpsl.planning.candidate_stages import CandidateStages
from mpsl.planning.node_kinds import Codes, NodeKinds
from mpsl.planning.objective import Placement
from mpsl.planning.problem import Problem
from mpsl.planning.stage_table import (
    HOPS,
    HOSTS,
    LATENCY,
    LOAD,
    MAXIMUM_ROWS,
    PASSED,
    SLOWEST,
    SUM_ROWS,
    WAVES,
    Array,
    Indices,
)

MAX_COMPARED_NEIGHBOURS = 12
"""How many better-placed neighbours each chain is compared with. More find more dominated chains, but take longer."""

LATE_BEAM_WIDTH = 400
"""The beam width after `Effort.beam_after`."""

PRUNING_FACTOR = 1 - 1e-12
"""A chain is kept if its bound is less than this share of the incumbent's value."""

MAX_PAIRS_AT_ONCE = 2_000_000
"""The maximum number of pairs of a chain and a stage in one step, so that arrays stay small."""


@dataclass(frozen=True)
class Chains:
    """n chains: figures [row, n], the nodes used, the id of the chain that each extends, the set of its last stage."""

    figures: Array
    used: Codes
    parents: Indices
    sets: Indices

    def __len__(self) -> int:
        return int(self.figures.shape[1])

    def take(self, chosen: NDArray[Any]) -> "Chains":
        """Return the chains at the indices, or under the mask, `chosen`."""
        return Chains(self.figures[:, chosen], self.used[chosen], self.parents[chosen], self.sets[chosen])


def joined(groups: Sequence[Chains]) -> Chains:
    """Return all groups as one."""
    if len(groups) == 1:
        return groups[0]
    return Chains(
        np.concatenate([chains.figures for chains in groups], axis=1),
        np.concatenate([chains.used for chains in groups]),
        np.concatenate([chains.parents for chains in groups]),
        np.concatenate([chains.sets for chains in groups]),
    )


def undominated(chains: Chains, criteria: Array, kinds: NodeKinds, fewer_nodes: bool) -> Chains:
    """Drop chains that another dominates: at least as good in all `criteria` [criterion, n], the same nodes used.

    With `fewer_nodes`, the other may also have used only some of them. Not every dominated chain is found.
    """
    for by_nodes in (True, False) if fewer_nodes else (True,):
        if len(chains) < 2:
            break
        keys = [criteria[0], criteria[1]]
        if by_nodes:
            keys.append(np.unique(chains.used, return_inverse=True)[1])
        order = np.lexsort(keys)
        used, sorted_criteria = chains.used[order], criteria[:, order]
        worse = np.zeros(len(chains), bool)
        for step in range(1, min(MAX_COMPARED_NEIGHBOURS, len(chains) - 1) + 1):
            better = (sorted_criteria[:, :-step] <= sorted_criteria[:, step:]).all(axis=0)
            if by_nodes:
                better &= used[:-step] == used[step:]
            else:
                better &= kinds.within(used[:-step], used[step:])
            worse[step:] |= better
        kept = np.sort(order[~worse])
        chains, criteria = chains.take(kept), criteria[:, kept]
    return chains


class Predecessors:
    """The predecessor of every chain that was extended, so that a complete chain can be traced back."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._groups: list[tuple[int, Chains]] = []
        self._size = 0

    def add(self, block: int, chains: Chains) -> Indices:
        """Record `chains`, which end at `block`. Returns their ids."""
        self._starts.append(self._size)
        self._groups.append((block, chains))
        self._size += len(chains)
        return np.arange(self._starts[-1], self._size)

    def path(self, chain: int) -> tuple[tuple[int, ...], list[int]]:
        """Return the cuts of a chain, and the sets of its stages."""
        cuts: list[int] = []
        sets: list[int] = []
        while chain >= 0:
            block, chain, last_set = self._step(chain)
            cuts.insert(0, block)
            if chain >= 0:
                sets.insert(0, last_set)
        return tuple(cuts), sets

    def _step(self, chain: int) -> tuple[int, int, int]:
        """Return the block where a chain ends, the chain that it extends (-1 for none), and its last stage's set."""
        group = bisect_right(self._starts, chain) - 1
        block, chains = self._groups[group]
        place = chain - self._starts[group]
        return block, int(chains.parents[place]), int(chains.sets[place])


@dataclass
class Incumbent:
    """The best placement so far and its value; the lowest bound of chains dropped without proof; the work done."""

    value: float = inf
    placement: Placement | None = None
    unproven: float = inf
    work: int = 0
    """The number of judged pairs of a chain and a stage."""

    def found(self, value: float, placement: Placement) -> None:
        """Take a better placement."""
        self.value, self.placement = value, placement


@dataclass(frozen=True)
class Effort:
    """How far one labelling goes."""

    width: int | None = None
    """Beam width: the number of chains kept at each block; None for all."""
    max_work: float = inf
    """The search ends before it has judged more pairs than this."""
    beam_after: float = inf
    """The work of the whole search after which the width is LATE_BEAM_WIDTH."""


class Labelling:
    """Grows the chains between one pair of device cuts; better complete ones replace the incumbent."""

    def __init__(
        self,
        problem: Problem,
        incumbent: Incumbent,
        pair: int,
        floor: float,
        candidates: CandidateStages,
        subsets: SubsetCostToGo | None = None,
    ) -> None:
        self._problem, self._incumbent, self._pair, self._floor = problem, incumbent, pair, floor
        self._candidates, self._subsets = candidates, subsets
        self._predecessors = Predecessors()
        self._ending: dict[int, list[Chains]] = {}
        """Chains to extend, by the block where they end."""

    def run(self, effort: Effort) -> bool:
        """Run. Returns whether the incumbent is proven to be the best between these cuts."""
        problem, incumbent, candidates = self._problem, self._incumbent, self._candidates
        known, complete, stop = incumbent.value, True, incumbent.work + effort.max_work
        self._ending[candidates.first] = [self._root()]
        for block in range(candidates.first, candidates.last):
            if block not in self._ending:
                continue
            chains = joined(self._ending.pop(block))
            if incumbent.value < known:  # when these chains were grown, their bounds were compared with `known`
                chains = chains.take(self._lower_bound(chains.figures, block) < incumbent.value * PRUNING_FACTOR)
            criteria = self._criteria(chains.figures)
            chains = undominated(chains, criteria, problem.kinds, problem.shape.hops is None)
            width = effort.width or (LATE_BEAM_WIDTH if incumbent.work > effort.beam_after else None)
            if width is not None and len(chains) > width:
                bounds = self._lower_bound(chains.figures, block)
                order = np.argsort(bounds, kind="stable")
                complete = effort.width is None
                if complete:
                    incumbent.unproven = min(incumbent.unproven, float(bounds[order[width]]))
                chains = chains.take(np.sort(order[:width]))
            if incumbent.work + len(chains) * len(candidates.at[block].ends) // 4 > stop:
                return False
            if len(chains):
                self._extend(block, chains)
        return complete

    def _root(self) -> Chains:
        kinds = self._problem.kinds
        figures = self._problem.objective.initial[:, self._pair : self._pair + 1].copy()
        figures[WAVES] = np.maximum(figures[WAVES], self._candidates.min_waves)
        return Chains(figures, kinds.codes([[0] * len(kinds.counts)]), np.array([-1]), np.array([-1]))

    def _lower_bound(self, figures: Array, block: int | Indices) -> Array:
        """Return a lower bound of the value of every completion; infinite where too few nodes are left."""
        left = self._problem.stages_left(figures)
        bounds = self._problem.lower_bound(self._pair, figures, block, self._candidates.last, left, self._subsets)
        return np.asarray(np.where(self._candidates.nodes_suffice(figures, block, left), bounds, np.inf))

    def _criteria(self, figures: Array) -> Array:
        """Return the figures that decide between two chains at the same block. A load below the floor never matters."""
        load = np.maximum(figures[LOAD], self._floor)
        rows = [load, figures[LATENCY], figures[WAVES], figures[PASSED], *figures[HOSTS:]]
        if self._problem.system.waiting_share:
            rows.append(figures[SLOWEST])
        if self._problem.max_hops < inf:
            rows.append(figures[HOPS])
        return np.array(rows)

    def _extend(self, block: int, chains: Chains) -> None:
        """Extend every chain by every possible stage. Complete chains compete; others wait at their last block."""
        problem, incumbent, last = self._problem, self._incumbent, self._candidates.last
        ids, stages = self._predecessors.add(block, chains), self._candidates.at[block]
        free = problem.kinds.all - chains.used
        share = max(1, MAX_PAIRS_AT_ONCE // max(1, len(stages.ends)))
        for begin in range(0, len(chains), share):
            fits = problem.kinds.within(stages.codes[None, :], free[begin : begin + share, None])
            fits &= (chains.figures[HOPS, begin : begin + share] < problem.max_hops)[:, None]
            parents, chosen = np.nonzero(fits)
            parents += begin
            figures = stages.figures[:, chosen]
            before = chains.figures[:, parents]
            np.maximum(figures[MAXIMUM_ROWS], before[MAXIMUM_ROWS], out=figures[MAXIMUM_ROWS])
            figures[SUM_ROWS] += before[SUM_ROWS]
            ends = stages.ends[chosen]
            incumbent.work += len(chosen)
            bounds = self._lower_bound(figures, ends)
            whole = np.nonzero(ends == last)[0]
            if len(whole):
                best = whole[np.argmin(bounds[whole])]
                if bounds[best] < incumbent.value:
                    cuts, sets = self._predecessors.path(int(ids[parents[best]]))
                    sets.append(int(stages.sets[chosen[best]]))
                    incumbent.found(float(bounds[best]), problem.placement((*cuts, last), sets))
            rows = np.nonzero((bounds < incumbent.value * PRUNING_FACTOR) & (ends < last))[0]
            rows = rows[np.argsort(ends[rows], kind="stable")]
            used = chains.used[parents[rows]] + stages.codes[chosen[rows]]
            grown = Chains(figures[:, rows], used, ids[parents[rows]], stages.sets[chosen[rows]])
            borders = np.searchsorted(ends[rows], np.arange(block + 1, last + 1))
            for end, (low, high) in enumerate(pairwise(borders.tolist()), start=block + 1):
                if low < high:
                    self._ending.setdefault(end, []).append(grown.take(np.arange(low, high)))
