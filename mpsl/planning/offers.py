"""Which stages are still worth weighing between two device cuts, once a good plan is known, and what their rest needs.

A stage too slow for any better plan is not offered, nor one that does as well with a node less. What remains says how
much of the fleet (its speed, its number, its memory) any completion must use at least, which no chain may exceed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, WAVES, WEIGHTS, Array, Stages, StageTables

SLACK = 1e-9
"""Kept between a bound and its limit, so that rounding drops nothing."""


@dataclass(frozen=True)
class Limits:
    """What a stage may cost: loads below `floor` make no difference, from `most_load` on it is of no use."""

    floor: float
    most_load: float
    most_waves: float
    least_waves: float = 0
    """Chains are judged as if they needed at least so many."""


class Offers:
    """The stages offered between two cuts, by the block where they begin; `hops` is their exact number, or None."""

    def __init__(self, at: dict[int, Stages], first: int, last: int, least_waves: float, hops: int | None) -> None:
        self.at, self.first, self.last, self.least_waves, self._hops = at, first, last, least_waves, hops

    @property
    def stages(self) -> int:
        """How many replica sets are offered, over all first blocks."""
        return sum(len(np.unique(stages.sets)) for stages in self.at.values())

    @property
    def waves(self) -> list[float]:
        """Every number of waves that a stage needs, rising."""
        return sorted({waves for stages in self.at.values() for waves in stages.figures[WAVES].tolist()})

    @cached_property
    def weights(self) -> list[Array]:
        """[hops, block] for each weight: the least share of the fleet that a completion uses."""
        return [self._least(row) for row in range(WEIGHTS, HOSTS)]

    def within(self, chain: Array, block: int | NDArray[np.int64], left: int | NDArray[np.int64]) -> NDArray[np.bool_]:
        """Where the nodes that `chain` left over may suffice to complete it from `block`."""
        enough = np.asarray(chain[WEIGHTS] + self.weights[0][left, block] <= 1 + SLACK)
        for row, least in enumerate(self.weights[1:], start=WEIGHTS + 1):
            enough &= chain[row] + least[left, block] <= 1 + SLACK
        return enough

    def only(self, useful: Callable[[Array], NDArray[np.bool_]]) -> "Offers":
        """Those that lie on some way to the last cut which the fleet may suffice for and which is `useful`.

        `useful` judges each stage's own figures with the latency of its fastest way in place of its own.
        """
        kept = {start: stages for start, stages in self.at.items() if len(stages.ends)}
        if not kept:
            return self
        figures = np.concatenate([stages.figures for stages in kept.values()], axis=1)
        enough = np.ones(figures.shape[1], bool)
        for row in range(WEIGHTS, HOSTS):
            enough &= self._through(row) <= 1 + SLACK
        figures[LATENCY] = self._through(LATENCY)
        enough &= useful(figures)
        borders = np.cumsum([len(stages.ends) for stages in kept.values()])[:-1]
        masks = dict(zip(kept, np.split(enough, borders), strict=True))
        at = {start: stages.take(masks[start]) if start in masks else stages for start, stages in self.at.items()}
        return Offers(at, self.first, self.last, self.least_waves, self._hops)

    def _through(self, row: int) -> Array:
        """For every stage, in the order of `at`: the least of `row` over the ways to the last cut that it lies on."""
        after = self._least(row)
        stage = self._stage_least(row)
        before = np.full_like(after, np.inf)
        before[0, self.first] = 0.0
        if self._hops is None:
            for block in range(self.first + 1, self.last + 1):
                before[0, block] = np.min(before[0] + stage[:, block])
        for hops in range(1, len(before)):
            before[hops] = np.min(before[hops - 1][:, None] + stage, axis=0)
        ways = []
        for start, stages in self.at.items():
            if self._hops is None:
                rest = before[0, start] + after[0, stages.ends]
            else:
                rest = np.min(before[:-1, start, None] + after[-2::-1][:, stages.ends], axis=0)
            ways.append(stages.figures[row] + rest)
        return np.concatenate(ways)

    def _stage_least(self, row: int) -> Array:
        """[start, end]: the least of `row` over the stages offered there."""
        stage = np.full((self.last + 1, self.last + 1), np.inf)
        for start, stages in self.at.items():
            np.minimum.at(stage[start], stages.ends, stages.figures[row])
        return stage

    def _least(self, row: int) -> Array:
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


def offers_within(tables: StageTables, first: int, last: int, limits: Limits, hops: int | None) -> Offers:
    """The stages from cut `first` to cut `last` within `limits`; `hops` is the exact number of stages, or None."""
    at = {start: _within(tables.stages(start), last, limits) for start in range(first, last)}
    return Offers(at, first, last, limits.least_waves, hops)


def _within(stages: Stages, last: int, limits: Limits) -> Stages:
    load = stages.figures[LOAD]
    offered = (load < limits.most_load) & (stages.figures[WAVES] <= limits.most_waves)
    return stages.take(offered & (stages.ends <= last) & (stages.load_with_one_less > np.maximum(load, limits.floor)))
