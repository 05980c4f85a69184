"""Finds the best placement: chains grow stage by stage from the first device cut to the last, all at once in arrays.

A chain is dropped where its lower bound is no better than a known plan, or where another chain that ends at the same block
with the same nodes used is at least as good in every figure. Both are safe, so what is left at the end is optimal; where
the work grows beyond `MOST_WORK`, only the most promising chains go on and the gap is reported.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import inf

import numpy as np

from mpsl.errors import UsageError
from mpsl.planning.bound import remainder_of
from mpsl.planning.chains import Chains, Indices, joined, undominated
from mpsl.planning.node_kinds import kinds_of, replica_sets, single_sets
from mpsl.planning.objective import Placement
from mpsl.planning.round_formula import Index, RoundFormula
from mpsl.planning.stage_table import HOPS, HOSTS, LARGEST, LATENCY, LOAD, PASSED, PRICE, SLOWEST, SUMMED, WAVES, Array, StageTables
from mpsl.planning.system import System
from mpsl.planning.terms import Columns

MOST_WORK = 100_000_000
"""Stages weighed in one search before it falls back to the most promising chains."""

NARROW, BEAM = 6, 400
"""Chains kept at each block: in the first look, which only finds a good plan, and when the work grows too much."""

TIE = 1e-9
"""Weight of the round's time where money decides: of equally cheap plans the faster one."""

_NEARLY = 1 - 1e-12


@dataclass(frozen=True)
class Shape:
    """Which chains are allowed: exactly `hops` stages of one replica, or with None any stages of any replicas.

    `all_in_one` asks for one stage with every node as a replica.
    """

    hops: int | None = None
    all_in_one: bool = False


@dataclass(frozen=True)
class Solution:
    """The best placement found, its value with fluid shares, and a proven lower bound of any placement's value.

    A value is seconds of a round, or money and a trace of seconds (`TIE`) where cost is minimised.
    """

    placement: Placement
    value: float
    bound: float

    @property
    def optimal(self) -> bool:
        """Whether no placement is better."""
        return self.bound >= self.value * (1 - 1e-9)

    @property
    def gap(self) -> float:
        """How much better another placement could be at most, as a share of this one's value."""
        return 0.0 if self.optimal or self.value == 0 else 1 - self.bound / self.value


def solve(system: System, shape: Shape, cheapest: bool = False) -> Solution | None:
    """The placement with the shortest round, or with `cheapest` the least money a round; None where nothing fits.

    Raises UsageError where the shape asks for more nodes or blocks than there are.
    """
    _check(system, shape)
    return _Search(system, shape, cheapest).run()


def _check(system: System, shape: Shape) -> None:
    nodes, wanted = len(system.nodes), shape.hops or 1
    if nodes < wanted:
        raise UsageError(f"{wanted} hops need {wanted} nodes, but the fleet has {nodes}; add [[nodes]] or ask for fewer hops")
    if shape.hops is not None and system.max_hops is not None and shape.hops > system.max_hops:
        raise UsageError(f"{shape.hops} hops are asked for, but the fleet's job allows max_hops = {system.max_hops}")
    first, last = system.first_cut or 1, system.last_cut or system.blocks - 1
    if last - first < wanted:
        raise UsageError(
            f"{wanted} hops need at least {wanted} blocks between the device's parts, but cuts[0] = {first} and "
            f"cuts[-1] = {last} leave {max(0, last - first)} of the model's {system.blocks}"
        )


class _Search:
    """One search: its tables, the best plan so far and the work done."""

    def __init__(self, system: System, shape: Shape, cheapest: bool) -> None:
        self.system, self.shape, self.cheapest = system, shape, cheapest
        self.columns = Columns(system)
        self.kinds = kinds_of(system)
        self.sets, self.all_sets = self._replica_sets()
        self.tables = StageTables(system, self.columns, self.kinds, self.sets)
        self.rest = remainder_of(system, self.columns, self.kinds, self.tables, shape.hops)
        firsts = [system.first_cut] if system.first_cut else range(1, system.blocks - 1)
        lasts = [system.last_cut] if system.last_cut else range(2, system.blocks)
        pairs = [(first, last) for first in firsts for last in lasts if last - first >= (shape.hops or 1)]
        self.formula = RoundFormula(system, self.columns, pairs)
        self.most_hops = 1 if shape.all_in_one else system.max_hops or inf
        self.lowest_price = min(node.price for node in system.nodes)
        self.value = inf
        self.best: Placement | None = None
        self.dropped = inf
        """The lowest bound of a chain that was given up without proof."""
        self.work = 0

    def _replica_sets(self) -> tuple[list[tuple[int, ...]], bool]:
        if self.shape.all_in_one:
            return [self.kinds.counts], True
        if self.shape.hops is not None:
            return single_sets(self.kinds), True
        speeds = [-node.hardware.seconds[-1] for node in self.kinds.examples]
        fastest_first = sorted(range(len(speeds)), key=lambda kind: -speeds[kind])
        return replica_sets(self.kinds, len(self.system.devices), fastest_first)

    def run(self) -> Solution | None:
        """Search every pair of device cuts whose bound leaves hope, the most hopeful first."""
        start = self.formula.start
        bounds = self._bounds(slice(None), start, self.formula.first, self.formula.last, self.shape.hops or 0)
        floors = self.formula.busiest(
            slice(None), self.rest.complete(start, self.formula.first, self.formula.last, self.shape.hops or 0)
        )
        for pair in np.argsort(bounds, kind="stable"):
            for keep in (NARROW, None):
                if bounds[pair] < self.value * _NEARLY:
                    self._sweep(int(pair), float(floors[pair]), keep)
        if self.best is None:
            return None
        if not self.all_sets:
            self.dropped = min(self.dropped, float(bounds.min()))
        return Solution(self.best, self.value, min(self.value, self.dropped))

    def _bounds(self, pair: Index, figures: Array, block: int | Indices, last: int | Indices, left: int | Indices) -> Array:
        """A lower bound of the value of every completion of chains; the value itself where `block` is `last`."""
        seconds = self.formula.seconds(pair, self.rest.complete(figures, block, last, left))
        if not self.cheapest:
            return seconds
        to_come = np.maximum(self.rest.money[last] - self.rest.money[block], self.lowest_price * seconds)
        money = figures[PRICE] * seconds + np.where(np.equal(block, last), 0.0, to_come)
        return np.asarray(money + TIE * seconds)

    def _sweep(self, pair: int, floor: float, keep: int | None) -> None:
        """Grow chains from block to block between one pair of device cuts; `keep` limits how many at each."""
        first, last = int(self.formula.first[pair]), int(self.formula.last[pair])
        used = self.kinds.codes([[0] * len(self.kinds.counts)])
        root = Chains(self.formula.start[:, pair : pair + 1], used, np.array([-1]), np.array([-1]))
        ending: dict[int, list[Chains]] = {first: [root]}
        trail = _Trail()
        for block in range(first, last):
            if block not in ending:
                continue
            chains = joined(ending.pop(block))
            bounds = self._bounds(pair, chains.figures, block, last, self._stages_left(chains.figures))
            hopeful = bounds < self.value * _NEARLY
            chains, bounds = chains.take(hopeful), bounds[hopeful]
            chains = undominated(chains, self._criteria(chains.figures, floor), self.kinds, self.shape.hops is None)
            limit = keep or (BEAM if self.work > MOST_WORK else None)
            if limit is not None and len(chains) > limit:
                bounds = self._bounds(pair, chains.figures, block, last, self._stages_left(chains.figures))
                order = np.argsort(bounds, kind="stable")
                if keep is None:
                    self.dropped = min(self.dropped, float(bounds[order[limit]]))
                chains = chains.take(np.sort(order[:limit]))
            if len(chains):
                self._extend(pair, block, last, chains, trail, ending)

    def _extend(
        self, pair: int, block: int, last: int, chains: Chains, trail: "_Trail", ending: dict[int, list[Chains]]
    ) -> None:
        """Put every stage that may follow behind every chain: complete ones compete, hopeful ones wait at their end."""
        ids = trail.add(block, chains)
        fits = self.kinds.within(self.tables.codes[None, :], self.kinds.all - chains.used[:, None])
        fits &= (chains.figures[HOPS] < self.most_hops)[:, None]
        parents, sets = np.nonzero(fits)
        ends = np.arange(block + 1, last + 1)
        stages = self.tables.table(block)[:, :, block + 1 : last + 1]
        share = max(1, _AT_ONCE // len(ends))
        for begin in range(0, len(parents), share):
            parent, chosen = parents[begin : begin + share], sets[begin : begin + share]
            figures = stages[:, chosen]
            before = chains.figures[:, parent, None]
            np.maximum(figures[LARGEST], before[LARGEST], out=figures[LARGEST])
            figures[SUMMED] += before[SUMMED]
            self.work += len(parent) * len(ends)
            bounds = self._bounds(pair, figures, ends, last, self._stages_left(figures))
            whole = int(np.argmin(bounds[:, -1]))
            if bounds[whole, -1] < self.value:
                self.value = float(bounds[whole, -1])
                self.best = self._placement(trail, int(ids[parent[whole]]), int(chosen[whole]), last)
            for column, end in enumerate(ends[:-1].tolist()):
                rows = np.nonzero(bounds[:, column] < self.value * _NEARLY)[0]
                if len(rows):
                    used = chains.used[parent[rows]] + self.tables.codes[chosen[rows]]
                    grown = Chains(figures[:, rows, column], used, ids[parent[rows]], chosen[rows])
                    ending.setdefault(end, []).append(grown)

    def _stages_left(self, figures: Array) -> int | Indices:
        """How many stages must follow: an index into the bounds, 0 where any number may."""
        if self.shape.hops is None:
            return 0
        return np.asarray(self.shape.hops - figures[HOPS], np.int64).clip(0)

    def _criteria(self, figures: Array, floor: float) -> Array:
        """The figures that decide between two chains at the same block; a load below `floor` never matters."""
        rows = [np.maximum(figures[LOAD], floor), figures[LATENCY], figures[WAVES], figures[PASSED], *figures[HOSTS:]]
        if self.system.waiting_share:
            rows.append(figures[SLOWEST])
        if self.most_hops < inf:
            rows.append(figures[HOPS])
        return np.array(rows)

    def _placement(self, trail: "_Trail", parent: int, last_set: int, last: int) -> Placement:
        cuts, sets = [last], [last_set]
        while parent >= 0:
            block, parent, earlier = trail.step(parent)
            cuts.append(block)
            if parent >= 0:
                sets.append(earlier)
        free = [list(members) for members in self.kinds.members]
        stages = [
            tuple(free[kind].pop(0) for kind, count in enumerate(self.sets[chosen]) for _ in range(count))
            for chosen in reversed(sets)
        ]
        return Placement(tuple(reversed(cuts)), tuple(stages))


_AT_ONCE = 1_000_000
"""Stages weighed in one go, so that arrays stay small."""


class _Trail:
    """Where every chain that was extended came from."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._groups: list[tuple[int, Chains]] = []
        self._size = 0

    def add(self, block: int, chains: Chains) -> Indices:
        """File `chains`, which end at `block`; their ids."""
        self._starts.append(self._size)
        self._groups.append((block, chains))
        self._size += len(chains)
        return np.arange(self._starts[-1], self._size)

    def step(self, chain: int) -> tuple[int, int, int]:
        """The block where chain ends, the chain that it extends (-1 for none) and the set of its last stage."""
        group = bisect_right(self._starts, chain) - 1
        block, chains = self._groups[group]
        place = chain - self._starts[group]
        return block, int(chains.parents[place]), int(chains.sets[place])
