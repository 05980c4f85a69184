"""Preprocessing: which stages may still be part of a better plan between two device cuts, once a good plan is known.

Method: resource-based arc elimination for constrained shortest paths (Beasley and Christofides, Networks 19, 1989): a
stage is dropped if every path through it needs more of a resource than the fleet has, or costs more than the best known
plan. The resources are shares of the fleet's speed, number and memory. A stage that is as good with one node less is
also dropped. It must never drop a stage of a plan that is better than the best known one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, WAVES, WEIGHTS, Array, Indices, Stages, StageTable

ROUNDING_SLACK = 1e-9
"""The margin between a bound and its limit, so that rounding drops nothing."""


@dataclass(frozen=True)
class StageLimits:
    """What a stage may cost: a load below `load_floor` makes no difference; from `max_load` on it is useless."""

    load_floor: float
    max_load: float
    max_waves: float
    min_waves: float = 0
    """Chains are judged as if they needed at least this many admission waves."""


class CandidateStages:
    """The stages to try between two device cuts, by their first block; `hops` of them in a chain, or any number."""

    def __init__(self, at: dict[int, Stages], first: int, last: int, min_waves: float, hops: int | None) -> None:
        self.at, self.first, self.last, self.min_waves, self._hops = at, first, last, min_waves, hops

    @property
    def set_count(self) -> int:
        """The number of replica sets to try, over all first blocks."""
        return sum(len(np.unique(stages.sets)) for stages in self.at.values())

    @property
    def waves(self) -> list[float]:
        """All numbers of waves that stages need, ascending."""
        return sorted({waves for stages in self.at.values() for waves in stages.figures[WAVES].tolist()})

    @cached_property
    def weights(self) -> list[Array]:
        """[hops, block] for each weight: the minimum share of the fleet that a completion uses."""
        return [self._least(row) for row in range(WEIGHTS, HOSTS)]

    def nodes_suffice(self, chain: Array, block: int | Indices, left: int | Indices) -> NDArray[np.bool_]:
        """Whether the nodes that `chain` leaves free may suffice to complete it from `block`."""
        enough = np.asarray(chain[WEIGHTS] + self.weights[0][left, block] <= 1 + ROUNDING_SLACK)
        for row, least in enumerate(self.weights[1:], start=WEIGHTS + 1):
            enough &= chain[row] + least[left, block] <= 1 + ROUNDING_SLACK
        return enough

    def on_useful_paths(self, useful: Callable[[Array], NDArray[np.bool_]]) -> "CandidateStages":
        """Return the stages on paths from cut to cut for which the fleet may suffice and which are `useful`.

        `useful` gets each stage's figures, with the latency of the fastest path through it instead of its own.
        """
        kept = {start: stages for start, stages in self.at.items() if len(stages.ends)}
        if not kept:
            return self
        figures = np.concatenate([stages.figures for stages in kept.values()], axis=1)
        enough = np.ones(figures.shape[1], bool)
        for row in range(WEIGHTS, HOSTS):
            enough &= self._least_through(row) <= 1 + ROUNDING_SLACK
        figures[LATENCY] = self._least_through(LATENCY)
        enough &= useful(figures)
        borders = np.cumsum([len(stages.ends) for stages in kept.values()])[:-1]
        masks = dict(zip(kept, np.split(enough, borders), strict=True))
        at = {start: stages.take(masks[start]) if start in masks else stages for start, stages in self.at.items()}
        return CandidateStages(at, self.first, self.last, self.min_waves, self._hops)

    def _least_through(self, row: int) -> Array:
        """Return for every stage, in the order of `at`, the minimum sum of `row` over the paths through it."""
        after = self._least(row)
        stage = self._stage_least(row)
        before = np.full_like(after, np.inf)
        before[0, self.first] = 0.0
        if self._hops is None:
            for block in range(self.first + 1, self.last + 1):
                before[0, block] = np.min(before[0] + stage[:, block])
        for hops in range(1, len(before)):
            before[hops] = np.min(before[hops - 1][:, None] + stage, axis=0)
        sums = []
        for start, stages in self.at.items():
            if self._hops is None:
                rest = before[0, start] + after[0, stages.ends]
            else:
                rest = np.min(before[:-1, start, None] + after[-2::-1][:, stages.ends], axis=0)
            sums.append(stages.figures[row] + rest)
        return np.concatenate(sums)

    def _stage_least(self, row: int) -> Array:
        """Return [start, end]: the minimum of `row` over the stages there."""
        stage = np.full((self.last + 1, self.last + 1), np.inf)
        for start, stages in self.at.items():
            np.minimum.at(stage[start], stages.ends, stages.figures[row])
        return stage

    def _least(self, row: int) -> Array:
        """Return [hops, block]: the minimum sum of `row` over the paths from `block` to the last cut."""
        stage = self._stage_least(row)
        if self._hops is None:
            least = np.full(self.last + 1, np.inf)
            least[self.last] = 0.0
            for block in range(self.last - 1, self.first - 1, -1):
                least[block] = np.min(stage[block] + least)
            return least[None]
        steps = [np.where(np.arange(self.last + 1) == self.last, 0.0, np.inf)]
        for _ in range(self._hops):
            steps.append(np.min(stage + steps[-1], axis=1))
        return np.array(steps)


def candidate_stages(
    table: StageTable, first: int, last: int, limits: StageLimits, hops: int | None
) -> CandidateStages:
    """Return the stages from cut `first` to cut `last` within `limits`; `hops` is the exact number, or None."""
    at = {start: _within(table.stages(start), last, limits) for start in range(first, last)}
    return CandidateStages(at, first, last, limits.min_waves, hops)


def _within(stages: Stages, last: int, limits: StageLimits) -> Stages:
    load = stages.figures[LOAD]
    useful = (load < limits.max_load) & (stages.figures[WAVES] <= limits.max_waves)
    return stages.take(
        useful & (stages.ends <= last) & (stages.load_with_one_node_less > np.maximum(load, limits.load_floor))
    )
