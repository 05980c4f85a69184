"""Lower bounds: the minimum cost of the rest of a chain, whichever nodes are left for it.

Method: cost-to-go of relaxed problems by dynamic programming, as in A* (Hart, Nilsson and Raphael, 1968) and in
bounding for constrained shortest paths. `RelaxedCostToGo` lets a node be used twice and divides blocks freely.
`SubsetCostToGo` is exact for each figure on its own: a table over all sets of free nodes, as in Held and Karp (1962).
`min_admission_waves` finds, from memory alone, the minimum number of admission waves.
A bound must never exceed the true value, because a chain is dropped if its bound is no better than a known plan.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.candidate_stages import ROUNDING_SLACK, CandidateStages
from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.service_demand import SystemArrays
from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, PASSED, STATE, WAVES, WEIGHTS, Array, Indices, StageTable
from mpsl.planning.system import System

MAX_WAVE_COUNTS = 8
"""How many different numbers of admission waves are tried, out of all that stages need."""

MAX_NODE_SETS = 4096
"""With more sets of nodes than this, no `SubsetCostToGo` is made."""

BlockIndex = int | Indices
"""One block, or one for each chain."""


@dataclass(frozen=True)
class RelaxedCostToGo:
    """Bounds from block b to a chain's last cut. Index `hops` is the exact number of stages, or 0 if it is free."""

    latency: Array
    """[hops, b, last]: seconds of a batch in the remaining stages and at the broker."""
    passed: Array
    """[hops, b, last]: bytes through the broker."""
    load: Array
    """[hops, b, last]: the busiest seat, if stages have one replica; 0 otherwise."""
    work: Array
    """work[b]: seconds per round of all work before block b, if the whole fleet shared it perfectly."""
    money: Array
    """money[b]: the least money of a round before block b."""
    cores: Array
    """cores[h, b]: the least core-seconds before block b on host h."""
    fastest: Array
    """fastest[hops]: the largest share of the fleet's speed of `hops` nodes."""

    def complete(self, chain: Array, block: BlockIndex, last: BlockIndex, left: BlockIndex) -> Array:
        """Return the rows of `chain` (which ends at `block`) plus the minimum of the rest up to cut `last`.

        `left` is the number of remaining stages, 0 if it is free.
        """
        whole = chain.copy()
        whole[LATENCY] += self.latency[left, block, last]
        whole[PASSED] += self.passed[left, block, last]
        speed = np.minimum(1.0 - chain[WEIGHTS], self.fastest[left])
        fluid = (self.work[last] - self.work[block]) / np.maximum(speed, 1e-12)
        whole[LOAD] = np.maximum(np.maximum(chain[LOAD], self.load[left, block, last]), fluid)
        for row in range(HOSTS, len(whole)):
            whole[row] += self.cores[row - HOSTS][last] - self.cores[row - HOSTS][block]
        return whole


def relaxed_cost_to_go(
    system: System, arrays: SystemArrays, kinds: NodeKinds, table: StageTable, hops: int | None
) -> RelaxedCostToGo:
    """Return the bounds for chains of exactly `hops` stages of one replica, or of any stages if it is None."""
    blocks = system.blocks
    latency = np.minimum.reduce([figures.latency for figures in table.figures])
    latency = latency + arrays.crossing * system.broker_s_per_byte
    part = arrays.parameters[None, :] - arrays.parameters[:, None]
    passed = np.where(np.isfinite(latency), system.batches * arrays.crossing + 2 * part, np.inf)
    load = np.minimum.reduce([figures.load for figures in table.figures])
    nothing = np.where(np.eye(blocks + 1, dtype=bool), 0.0, np.inf)
    if hops is None:
        latencies, passes = _any_stages(latency)[None], _any_stages(passed)[None]
        loads = np.where(np.isfinite(latencies), 0.0, np.inf)
    else:
        latencies, passes, loads = nothing[None], nothing[None], nothing[None]
        for _ in range(hops):
            latencies = np.concatenate([latencies, _one_more_stage(latency, latencies[-1])[None]])
            passes = np.concatenate([passes, _one_more_stage(passed, passes[-1])[None]])
            largest = np.min(np.maximum(load[:, :, None], loads[-1][None]), axis=1)
            loads = np.concatenate([loads, largest[None]])
    speed = table.weights[0]
    least = np.min([figures.base * weight for figures, weight in zip(table.figures, speed, strict=True)], axis=0)
    money = np.min(
        [figures.base * node.price for figures, node in zip(table.figures, kinds.examples, strict=True)], axis=0
    )
    cores = [
        np.min([figures.cores for figures in table.figures], axis=0)
        if all(node.host == host for node in kinds.examples)
        else np.zeros(blocks)
        for host in system.hosts
    ]
    each = np.sort(np.repeat(speed, kinds.counts))[::-1]
    return RelaxedCostToGo(
        latency=latencies,
        passed=passes,
        load=loads,
        work=_prefix_sums(least),
        money=_prefix_sums(money),
        cores=np.array([_prefix_sums(seconds) for seconds in cores]).reshape(-1, blocks + 1),
        fastest=np.ones(1) if hops is None else np.concatenate([[0.0], np.cumsum(each)])[: hops + 1],
    )


class SubsetCostToGo:
    """latency[block, free] and load[block, free]: the minimum of the rest if node set number `free` is left."""

    def __init__(self, candidates: CandidateStages, kinds: NodeKinds, hops: int | None) -> None:
        self._counts = np.stack(np.unravel_index(np.arange(kinds.states), [count + 1 for count in kinds.counts]))
        self._superset_cache: dict[int, NDArray[np.int64]] = {}
        self._all = kinds.states - 1
        self.latency = np.full((candidates.last + 1, kinds.states), np.inf)
        used = sum(kinds.counts) - self._counts.sum(axis=0)
        self.latency[candidates.last, np.full(kinds.states, True) if hops is None else used == hops] = 0.0
        self.load = np.where(np.isfinite(self.latency), 0.0, np.inf)
        for block in range(candidates.last - 1, candidates.first - 1, -1):
            stages = candidates.at[block]
            ends, columns = np.unique(stages.ends, return_inverse=True)
            taken, rows = np.unique(stages.figures[STATE].astype(np.int64), return_inverse=True)
            own = np.full((2, len(ends), len(taken)), np.inf)
            own[:, columns, rows] = stages.figures[[LATENCY, LOAD]]
            supersets = [self._supersets(int(number)) for number in taken]
            sizes = np.array([len(superset) for superset in supersets])
            # Sets with equally many choices are computed together, because thousands of small steps would cost more.
            for size in np.unique(sizes):
                sets = np.nonzero(sizes == size)[0]
                superset = np.stack([supersets[number] for number in sets])
                left = superset - taken[sets, None]
                latency, load = own[:, :, sets, None]
                latency = np.min(latency + np.take(self.latency[ends], left, axis=1), axis=0)
                load = np.min(np.maximum(load, np.take(self.load[ends], left, axis=1)), axis=0)
                np.minimum.at(self.latency[block], superset, latency)
                np.minimum.at(self.load[block], superset, load)

    def _supersets(self, taken: int) -> NDArray[np.int64]:
        """Return the numbers of the sets of free nodes that contain set number `taken`."""
        if taken not in self._superset_cache:
            self._superset_cache[taken] = np.nonzero((self._counts >= self._counts[:, taken, None]).all(axis=0))[0]
        return self._superset_cache[taken]

    def complete(self, chain: Array, whole: Array, block: int | NDArray[np.int64]) -> None:
        """Raise the latency and load of `whole`, a bound of the completed `chain`, to those of this table."""
        free = self._all - chain[STATE].astype(np.int64)
        whole[LATENCY] = np.maximum(whole[LATENCY], chain[LATENCY] + self.latency[block, free])
        whole[LOAD] = np.maximum(whole[LOAD], self.load[block, free])


def min_admission_waves(
    table: StageTable, first: NDArray[np.int64], last: NDArray[np.int64], below: float, hops: int | None
) -> Array:
    """Return, for every pair of device cuts, the minimum admission waves with which the fleet may suffice.

    If memory is tight, few devices fit a stage's nodes at a time, and stages with more nodes leave fewer for the
    others. Bounds that consider one stage at a time miss that. Only stages with a load less than `below` seconds per
    round count, and only chains of `hops` stages if that is given; infinite if no number of waves is enough.
    """
    starts = range(int(first.min()), int(last.max()))
    stages = [table.stages(start) for start in starts]
    figures = np.concatenate([each.figures for each in stages], axis=1)
    ends = np.concatenate([each.ends for each in stages])
    begins = np.repeat(np.array(starts), [len(each.ends) for each in stages])
    fewest = np.full(len(first), np.inf)
    steps = np.unique(figures[WAVES])
    if not len(steps):
        return fewest
    cuts = max(int(ends.max()), int(last.max())) + 1
    tried = np.unique(np.linspace(0, len(steps) - 1, MAX_WAVE_COUNTS).astype(int))
    for place, step in reversed(list(enumerate(tried))):
        counts = (figures[WAVES] <= steps[step]) & (figures[LOAD] < below)
        enough = np.ones(len(first), bool)
        for weight in figures[WEIGHTS:HOSTS, counts]:
            stage = np.full((cuts, cuts), np.inf)
            np.minimum.at(stage, (begins[counts], ends[counts]), weight)
            least = _any_stages(stage) if hops is None else _exact_stages(stage, hops)
            enough &= least[first, last] <= 1 + ROUNDING_SLACK
        # The last number that was tried was not enough, so the minimum is the next one.
        fewest[enough] = steps[tried[place - 1] + 1] if place else steps[0]
    return fewest


def _one_more_stage(first: Array, rest: Array) -> Array:
    """Return [b, last]: the minimum of one more stage and its rest."""
    return np.asarray(np.min(first[:, :, None] + rest[None], axis=1))


def _any_stages(stage: Array) -> Array:
    """Return [b, last]: the minimum over any number of stages, where `stage` is that of one; 0 from a cut to itself."""
    best = np.where(np.eye(len(stage), dtype=bool), np.minimum(stage, 0.0), stage)
    for _ in range(len(stage).bit_length()):
        best = _one_more_stage(best, best)
    return best


def _exact_stages(stage: Array, hops: int) -> Array:
    """Return [b, last]: the minimum over exactly `hops` stages."""
    best = np.where(np.eye(len(stage), dtype=bool), 0.0, np.inf)
    for _ in range(hops):
        best = _one_more_stage(stage, best)
    return best


def _prefix_sums(figures: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(figures)])
