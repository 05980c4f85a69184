"""Finds the best placement: chains grow stage by stage from the first device cut to the last, all at once in arrays.

A chain is dropped where its lower bound is no better than a known plan, or where another chain that ends at the same
block with the same nodes used is at least as good in every figure. Both are safe, so what is left at the end is
optimal; where the work grows beyond `MAX_WORK`, only the most promising chains go on and the gap is reported.
"""

from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.bound import remainder_of
from mpsl.planning.chains import Chains, Trail, joined, undominated
from mpsl.planning.completions import MAX_STATES, Completions
from mpsl.planning.node_kinds import kinds_of, replica_sets, single_sets
from mpsl.planning.objective import Placement
from mpsl.planning.offers import Limits, Offers, offers_within
from mpsl.planning.round_formula import Index, RoundFormula
from mpsl.planning.shape import Shape
from mpsl.planning.stage_table import (
    HOPS,
    HOSTS,
    LARGEST,
    LATENCY,
    LOAD,
    PASSED,
    PRICE,
    SLOWEST,
    SUMMED,
    WAVES,
    Array,
    Indices,
    StageTables,
)
from mpsl.planning.system import System
from mpsl.planning.terms import Columns
from mpsl.planning.twins import Twins
from mpsl.planning.waves import least_waves

MAX_WORK = 10_000_000
"""Stages weighed in one search before it falls back to the most promising chains."""

WORK_A_SET = 30
"""Stages that are weighed in the time in which dear bounds are made for one set of replicas at one block."""

FEW_PAIRS = 3
"""Pairs of device cuts, of more than which a dearer bound tells where to begin and where there is no hope."""

NARROW, BEAM = 6, 400
"""Chains kept at each block: in the first look, which only finds a good plan, and when the work grows too much."""

TIE = 1e-9
"""Weight of the round's time where money decides: of equally cheap plans the faster one."""

_NEARLY = 1 - 1e-12

AT_ONCE = 2_000_000
"""Pairs of a chain and a stage looked at in one go, so that arrays stay small."""


class Search:
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
        self.most_work = MAX_WORK if self.all_sets else 0  # without all sets there is nothing to prove

    def _replica_sets(self) -> tuple[list[tuple[int, ...]], bool]:
        if self.shape.all_in_one:
            return [self.kinds.counts], True
        if self.shape.hops is not None:
            return single_sets(self.kinds), True
        speeds = [-node.hardware.seconds[-1] for node in self.kinds.examples]
        fastest_first = sorted(range(len(speeds)), key=lambda kind: -speeds[kind])
        return replica_sets(self.kinds, len(self.system.devices), fastest_first)

    def run(self, until_found: bool = False) -> None:
        """Search every pair of device cuts whose bound leaves hope, the most hopeful first."""
        if self.cheapest and self.shape.hops in (None, 1):
            self._try_single_stages()
        bounds, floors = self._bounds_of_pairs()
        lowest = float(bounds.min(initial=inf))
        hopeful = np.argsort(bounds, kind="stable")
        if len(hopeful) > FEW_PAIRS:
            best, start = int(hopeful[0]), self.formula.start
            self._sweep(best, float(floors[best]), self._offers(best, float(floors[best])), NARROW)
            waves = least_waves(
                self.tables, self.formula.first, self.formula.last, self._known_seconds(), self.shape.hops
            )
            enough = np.isfinite(waves)
            start[WAVES, enough] = np.maximum(start[WAVES], waves)[enough]
            bounds, floors = self._bounds_of_pairs()
            bounds[~enough] = inf
            hopeful = np.argsort(bounds, kind="stable")
        twins = Twins(self.formula, self.columns, self.kinds)
        for pair in hopeful:
            if until_found and self.best:
                return
            if bounds[pair] < self.value * _NEARLY and not twins.seen(int(pair)):
                self._settle(int(pair), float(floors[pair]), until_found)
        if not self.all_sets:
            self.dropped = min(self.dropped, lowest)

    def _try_single_stages(self) -> None:
        """The best plan of one stage, over all pairs: often the cheapest of all, and found at the price of a look."""
        first, last = self.formula.first, self.formula.last
        pair_at = np.full((self.system.blocks, self.system.blocks), -1)
        pair_at[first, last] = np.arange(len(first))
        for begin in np.unique(first).tolist():
            stages = self.tables.stages(begin)
            stages = stages.take(pair_at[begin, stages.ends] >= 0)
            if len(stages.ends):
                pairs = pair_at[begin, stages.ends]
                figures = self._begun(pairs, stages.figures)
                values = self._bounds(pairs, figures, stages.ends, stages.ends, 0)
                best = int(np.argmin(values))
                if values[best] < self.value:
                    self.value = float(values[best])
                    self._found((begin, int(stages.ends[best])), [int(stages.sets[best])])

    def _begun(self, pair: Index, stages: Array) -> Array:
        """The figures of chains of one stage each, with what comes before the first one."""
        figures, start = stages.copy(), self.formula.start[:, pair]
        figures[LARGEST] = np.maximum(figures[LARGEST], start[LARGEST])
        figures[SUMMED] += start[SUMMED]
        return figures

    def _bounds_of_pairs(self) -> tuple[Array, Array]:
        """Of every pair of device cuts: a lower bound of any plan's value, and of its busiest resource's seconds."""
        start, first, last = self.formula.start, self.formula.first, self.formula.last
        left = self.shape.hops or 0
        bounds = self._bounds(slice(None), start, first, last, left)
        return bounds, self.formula.busiest(slice(None), self.rest.complete(start, first, last, left))

    def _settle(self, pair: int, floor: float, until_found: bool) -> None:
        """Find the best chain between one pair of device cuts, with bounds that grow dearer where they must."""
        offers, known = self._offers(pair, floor), self.value
        if self._sweep(pair, floor, offers, NARROW) or (until_found and self.best):
            return
        if self.value < known:
            offers = self._offers(pair, floor)
        little = WORK_A_SET * offers.stages if self.kinds.states <= MAX_STATES else None
        if self._sweep(pair, floor, offers, None, little):
            return
        for waves in offers.waves:
            offers = self._useful(pair, self._offers(pair, floor, waves))
            if self._sweep(pair, floor, offers, None, WORK_A_SET * offers.stages):
                continue
            completions = Completions(offers, self.kinds, self.shape.hops)
            if not self._sweep(pair, floor, offers, NARROW, completions=completions):
                self._sweep(pair, floor, offers, None, completions=completions)

    def _bounds(
        self,
        pair: Index,
        figures: Array,
        block: int | Indices,
        last: int | Indices,
        left: int | Indices,
        completions: Completions | None = None,
    ) -> Array:
        """A lower bound of the value of every completion of chains; the value itself where `block` is `last`."""
        whole = self.rest.complete(figures, block, last, left)
        if completions:
            completions.complete(figures, whole, block)
        seconds = self.formula.seconds(pair, whole)
        if not self.cheapest:
            return seconds
        with np.errstate(invalid="ignore"):  # nothing times forever: not a number, and so never less than a known value
            nodes = np.maximum(left, 1)  # at least: each stage to come has one
            to_come = np.maximum(self.rest.money[last] - self.rest.money[block], nodes * self.lowest_price * seconds)
            money = figures[PRICE] * seconds + np.where(np.equal(block, last), 0.0, to_come)
        return np.asarray(money + TIE * seconds)

    def _sweep(
        self,
        pair: int,
        floor: float,
        offers: Offers,
        keep: int | None,
        most_work: int | None = None,
        completions: Completions | None = None,
    ) -> bool:
        """Grow chains from block to block between one pair of device cuts; whether there is no better one left.

        `keep` limits how many go on from each block; a sweep that would do more than `most_work` gives up.
        """
        last, known, complete = offers.last, self.value, True
        used = self.kinds.codes([[0] * len(self.kinds.counts)])
        start = self.formula.start[:, pair : pair + 1].copy()
        start[WAVES] = np.maximum(start[WAVES], offers.least_waves)
        root = Chains(start, used, np.array([-1]), np.array([-1]))
        ending: dict[int, list[Chains]] = {offers.first: [root]}
        trail = Trail()
        stop = inf if most_work is None else self.work + most_work
        for block in range(offers.first, last):
            if block not in ending:
                continue
            chains = joined(ending.pop(block))
            if self.value < known:  # what the bounds were held against when these chains were grown
                bounds = self._hope(pair, offers, completions, chains.figures, block)
                chains = chains.take(bounds < self.value * _NEARLY)
            limit = keep or (BEAM if self.work > self.most_work else None)
            chains = undominated(chains, self._criteria(chains.figures, floor), self.kinds, self.shape.hops is None)
            if limit is not None and len(chains) > limit:
                bounds = self._hope(pair, offers, completions, chains.figures, block)
                order = np.argsort(bounds, kind="stable")
                complete = keep is None
                if complete:
                    self.dropped = min(self.dropped, float(bounds[order[limit]]))
                chains = chains.take(np.sort(order[:limit]))
            if self.work + len(chains) * len(offers.at[block].ends) // 4 > stop:
                return False
            if len(chains):
                self._extend(pair, block, chains, offers, completions, trail, ending)
        return complete

    def _offers(self, pair: int, floor: float, waves: float = 0) -> Offers:
        """The stages that a plan better than the best so far can have between this pair of device cuts.

        With `waves`, only stages that need no more, and chains are judged as if they needed so many.
        """
        first, last = int(self.formula.first[pair]), int(self.formula.last[pair])
        start = self.formula.start[:, pair]
        least = self.rest.complete(start, first, last, self.shape.hops or 0)
        most_load, most_waves = self.formula.limits(pair, least, self._known_seconds())
        limits = Limits(floor, most_load, min(most_waves, waves or inf), waves)
        return offers_within(self.tables, first, last, limits, self.shape.hops)

    def _useful(self, pair: int, offers: Offers) -> Offers:
        """Those of `offers` that lie on a way that may be better than the best plan so far."""
        start = self.formula.start[:, pair, None]

        def useful(figures: Array) -> NDArray[np.bool_]:
            figures[LARGEST] = np.maximum(figures[LARGEST], start[LARGEST])
            figures[WAVES] = np.maximum(figures[WAVES], offers.least_waves)
            figures[SUMMED] += start[SUMMED]
            return np.asarray(self.formula.seconds(pair, figures) < self._known_seconds())

        return offers.only(useful)

    def _known_seconds(self) -> float:
        """No plan that is better than the best so far has a longer round."""
        return self.value / (self.lowest_price + TIE) if self.cheapest else self.value

    def _hope(
        self, pair: int, offers: Offers, completions: Completions | None, figures: Array, block: int | Indices
    ) -> Array:
        """`_bounds` with what the offers know besides; infinite where too few nodes are left."""
        left = self._stages_left(figures)
        bounds = self._bounds(pair, figures, block, offers.last, left, completions)
        return np.asarray(np.where(offers.within(figures, block, left), bounds, np.inf))

    def _extend(
        self,
        pair: int,
        block: int,
        chains: Chains,
        offers: Offers,
        completions: Completions | None,
        trail: Trail,
        ending: dict[int, list[Chains]],
    ) -> None:
        """Put every stage that may follow behind every chain: complete ones compete, hopeful ones wait at their end."""
        ids, offer, last = trail.add(block, chains), offers.at[block], offers.last
        free = self.kinds.all - chains.used
        share = max(1, AT_ONCE // max(1, len(offer.ends)))
        for begin in range(0, len(chains), share):
            fits = self.kinds.within(offer.codes[None, :], free[begin : begin + share, None])
            fits &= (chains.figures[HOPS, begin : begin + share] < self.most_hops)[:, None]
            parents, chosen = np.nonzero(fits)
            parents += begin
            figures = offer.figures[:, chosen]
            before = chains.figures[:, parents]
            np.maximum(figures[LARGEST], before[LARGEST], out=figures[LARGEST])
            figures[SUMMED] += before[SUMMED]
            ends = offer.ends[chosen]
            self.work += len(chosen)
            bounds = self._hope(pair, offers, completions, figures, ends)
            whole = np.nonzero(ends == last)[0]
            if len(whole):
                best = whole[np.argmin(bounds[whole])]
                if bounds[best] < self.value:
                    self.value = float(bounds[best])
                    cuts, sets = trail.back(int(ids[parents[best]]))
                    self._found((*cuts, last), [*sets, int(offer.sets[chosen[best]])])
            rows = np.nonzero((bounds < self.value * _NEARLY) & (ends < last))[0]
            rows = rows[np.argsort(ends[rows], kind="stable")]
            used = chains.used[parents[rows]] + offer.codes[chosen[rows]]
            grown = Chains(figures[:, rows], used, ids[parents[rows]], offer.sets[chosen[rows]])
            borders = np.searchsorted(ends[rows], np.arange(block + 1, last + 1))
            for end, (low, high) in enumerate(pairwise(borders.tolist()), start=block + 1):
                if low < high:
                    ending.setdefault(end, []).append(grown.take(np.arange(low, high)))

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

    def _found(self, cuts: tuple[int, ...], sets: list[int]) -> None:
        self.best = Placement(cuts, self.kinds.nodes([self.sets[chosen] for chosen in sets]))
