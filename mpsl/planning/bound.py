"""Lower bounds: what the rest of a chain costs at least, whatever nodes are left for it.

Each bound relaxes the problem (nodes used twice, blocks divided) and never says too much, so that a chain whose bound
is no better than a known plan can be dropped.
"""

from dataclasses import dataclass

import numpy as np

from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, PASSED, WEIGHTS, Array, Indices, StageTables
from mpsl.planning.system import System
from mpsl.planning.terms import Columns

Place = int | Indices
"""One number, or one for each chain."""


@dataclass(frozen=True)
class Remainder:
    """Bounds from block b to a chain's last cut; `hops` stages exactly where it is an index, any number at index 0."""

    latency: Array
    """[hops, b, last]: seconds of a batch in the stages to come and at the broker."""
    passed: Array
    """[hops, b, last]: bytes through the broker."""
    load: Array
    """[hops, b, last]: the busiest seat, where stages have one replica; 0 otherwise."""
    work: Array
    """work[b]: seconds a round of all work before block b, if the whole fleet did it together as well as can be."""
    money: Array
    """money[b]: the least money of a round before block b."""
    cores: Array
    """cores[h, b]: core-seconds before block b that host h bears at least."""
    fastest: Array
    """fastest[hops]: the most of the fleet's speed that so many nodes can have."""

    def complete(self, chain: Array, block: Place, last: Place, left: Place) -> Array:
        """The rows of `chain` (which ends at `block`) with the least that must still come up to cut `last`.

        `left` is the number of stages to come, 0 where it is free.
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


def remainder_of(
    system: System, columns: Columns, kinds: NodeKinds, tables: StageTables, hops: int | None
) -> Remainder:
    """The bounds for chains of exactly `hops` stages of one replica, or of any stages where it is None."""
    blocks = system.blocks
    latency = np.minimum.reduce([figures.latency for figures in tables.figures])
    latency = latency + columns.crossing * system.broker_s_per_byte
    part = columns.parameters[None, :] - columns.parameters[:, None]
    passed = np.where(np.isfinite(latency), system.batches * columns.crossing + 2 * part, np.inf)
    load = np.minimum.reduce([figures.load for figures in tables.figures])
    nothing = np.where(np.eye(blocks + 1, dtype=bool), 0.0, np.inf)
    if hops is None:
        latencies, passes = any_number(latency)[None], any_number(passed)[None]
        loads = np.where(np.isfinite(latencies), 0.0, np.inf)
    else:
        latencies, passes, loads = nothing[None], nothing[None], nothing[None]
        for _ in range(hops):
            latencies = np.concatenate([latencies, _then(latency, latencies[-1])[None]])
            passes = np.concatenate([passes, _then(passed, passes[-1])[None]])
            largest = np.min(np.maximum(load[:, :, None], loads[-1][None]), axis=1)
            loads = np.concatenate([loads, largest[None]])
    speed = tables.weights[0]
    least = np.min([figures.base * weight for figures, weight in zip(tables.figures, speed, strict=True)], axis=0)
    money = np.min(
        [figures.base * node.price for figures, node in zip(tables.figures, kinds.examples, strict=True)], axis=0
    )
    cores = [
        np.min([figures.cores for figures in tables.figures], axis=0)
        if all(node.host == host for node in kinds.examples)
        else np.zeros(blocks)
        for host in system.hosts
    ]
    each = np.sort(np.repeat(speed, kinds.counts))[::-1]
    return Remainder(
        latency=latencies,
        passed=passes,
        load=loads,
        work=_before(least),
        money=_before(money),
        cores=np.array([_before(seconds) for seconds in cores]).reshape(-1, blocks + 1),
        fastest=np.ones(1) if hops is None else np.concatenate([[0.0], np.cumsum(each)])[: hops + 1],
    )


def _then(first: Array, rest: Array) -> Array:
    """[b, last]: the least of one more stage and what follows it."""
    return np.asarray(np.min(first[:, :, None] + rest[None], axis=1))


def any_number(stage: Array) -> Array:
    """[b, last]: the least over any number of stages, where `stage` has the least of one; none from a cut to itself."""
    best = np.where(np.eye(len(stage), dtype=bool), np.minimum(stage, 0.0), stage)
    for _ in range(len(stage).bit_length()):
        best = _then(best, best)
    return best


def exactly(stage: Array, hops: int) -> Array:
    """[b, last]: the least over so many stages."""
    best = np.where(np.eye(len(stage), dtype=bool), 0.0, np.inf)
    for _ in range(hops):
        best = _then(stage, best)
    return best


def _before(figures: Array) -> Array:
    return np.concatenate([[0.0], np.cumsum(figures)])
