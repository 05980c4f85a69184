"""Every possible stage of a chain as arrays: one row for each figure of which a chain takes the sum or the maximum.

These are the arcs of the shortest-path problem that `labelling.py` solves: from the block where a stage begins to the
block where it ends. The formulas are those of `service_demand.py`; this file models nothing new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.admission_limit import ROUNDING_SLACK
from mpsl.planning.node_kinds import Codes, NodeKinds
from mpsl.planning.objective import NO_TIME
from mpsl.planning.service_demand import SeatDemand, SystemArrays, seat_demand
from mpsl.planning.system import System

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

LOAD, SLOWEST, WAVES, LATENCY, PASSED, HOPS, PRICE, STATE, WEIGHTS = range(9)
HOSTS = WEIGHTS + 3
"""Rows of a table and of a chain. A chain takes the largest of LOAD, SLOWEST and WAVES and the sum of the others. STATE
numbers the set of nodes used. The rows from WEIGHTS on say how much of the fleet is used: of its speed, of its number,
of its memory. From HOSTS on there is one row a host."""
MAX_FIGURES_AT_ONCE = 64 * 1024
"""The maximum figures of a row in one step, so that arrays stay small."""
MAXIMUM_ROWS = slice(LOAD, LATENCY)
SUM_ROWS = slice(LATENCY, None)


@dataclass(frozen=True)
class SingleNodeFigures:
    """A node kind's figures for the search's bounds, for all pairs of cuts; block figures have one entry per block."""

    base: Array
    """Seconds per round of each block if one node of this kind served all devices: a lower bound of its load."""
    cores: Array
    """Core-seconds per round of each block, a lower bound."""
    latency: Array
    """[start, end]: a batch's seconds at a seat of this kind; infinite where the part does not fit."""
    load: Array
    """[start, end]: seconds per round of a seat that serves all devices; infinite if the part does not fit."""


@dataclass(frozen=True)
class Stages:
    """n stages that begin at one block: figures [row, n], the nodes they take, the index of their set, their end."""

    figures: Array
    codes: Codes
    sets: Indices
    ends: Indices
    load_with_one_node_less: Array
    """The minimum load of the same stage with one node less that is no worse in any other figure; infinite if none.

    If this is at most the stage's own load, or a load that does not matter, the node is useless.
    """

    def take(self, chosen: NDArray[np.bool_]) -> "Stages":
        """Return the stages under the mask `chosen`."""
        return Stages(
            self.figures[:, chosen],
            self.codes[chosen],
            self.sets[chosen],
            self.ends[chosen],
            self.load_with_one_node_less[chosen],
        )


class StageTable:
    """The stages from each first block, made on demand."""

    def __init__(self, system: System, arrays: SystemArrays, kinds: NodeKinds, sets: Sequence[tuple[int, ...]]) -> None:
        self._system, self._arrays, self._kinds = system, arrays, kinds
        self.counts = np.array(sets, float)
        self.codes = kinds.codes(sets)
        self._host_names = list(system.hosts)
        self._stages: dict[int, Stages] = {}
        self.figures = [self._figures_of(kind) for kind in range(len(kinds.counts))]
        """The figures of each kind of node, for the bounds."""
        self.weights = self._shares_of_fleet()
        """[weight, kind]: the share of the fleet's speed, number and memory of one node of each kind."""

    def _shares_of_fleet(self) -> Array:
        speeds = np.array([1 / max(kind.base.sum(), NO_TIME) for kind in self.figures])
        memory = np.array([node.memory for node in self._kinds.examples])
        amounts = np.array([speeds, np.ones(len(speeds)), memory])
        return np.asarray(amounts / (amounts @ np.array(self._kinds.counts))[:, None])

    def stages(self, start: int) -> Stages:
        """Return all stages from block `start` that fit their nodes' memory, sorted by set and end."""
        if start not in self._stages:
            self._make_from(start)
        return self._stages[start]

    def _make_from(self, first: int) -> None:
        """Make the stages from `first` and some blocks after it, because with few sets that takes no longer."""
        blocks = self._system.blocks
        together = max(1, MAX_FIGURES_AT_ONCE // (len(self.counts) * blocks))
        group = [start for start in range(first, min(first + together, blocks - 1)) if start not in self._stages]
        ends = [np.arange(start + 1, blocks) for start in group]
        table = self._make(np.repeat(group, [len(each) for each in ends]), np.concatenate(ends))
        less = self._load_with_one_node_less(table)
        useful = np.isfinite(table[LOAD]) & (less > table[LOAD])
        borders = np.cumsum([0, *map(len, ends)]).tolist()
        for start, made, begin, end in zip(group, ends, borders, borders[1:], strict=False):
            sets, places = np.nonzero(useful[:, begin:end])
            figures, loads = table[:, sets, begin + places], less[sets, begin + places]
            self._stages[start] = Stages(figures, self.codes[sets], sets, made[places], loads)

    def _load_with_one_node_less(self, table: Array) -> Array:
        least = np.full(table.shape[1:], np.inf)
        for bigger, smaller in self._one_node_less:
            same = (table[WAVES, smaller] <= table[WAVES, bigger]) & np.isfinite(table[LOAD, bigger])
            for row in range(HOSTS, len(table)):
                same &= table[row, smaller] <= table[row, bigger]
            least[bigger] = np.minimum(least[bigger], np.where(same, table[LOAD, smaller], np.inf))
        return least

    @cached_property
    def _one_node_less(self) -> list[tuple[Indices, Indices]]:
        """Return for each kind the sets with a node of it, and the same sets without that node."""
        index = {tuple(counts): place for place, counts in enumerate(self.counts.astype(int).tolist())}
        pairs = []
        for kind in range(len(self._kinds.counts)):
            found = []
            for counts, bigger in index.items():
                less = (*counts[:kind], counts[kind] - 1, *counts[kind + 1 :])
                if less in index:
                    found.append((bigger, index[less]))
            if found:
                bigger_sets, smaller_sets = np.array(found, np.int64).T
                pairs.append((bigger_sets, smaller_sets))
        return pairs

    def _figures_of(self, kind: int) -> SingleNodeFigures:
        system, blocks = self._system, self._system.blocks
        node = self._kinds.examples[kind]
        start, end = np.triu_indices(blocks + 1, 1)
        demand = seat_demand(system, node, start, end, self._arrays)
        fits = demand.memory.fixed + demand.memory.each <= node.memory
        load = np.maximum.reduce([busy.seconds(system.batches, len(system.devices)) for busy in demand.resources])
        latency, loads = np.full((2, blocks + 1, blocks + 1), np.inf)
        latency[start, end] = np.where(fits, demand.latency, np.inf)
        loads[start, end] = np.where(fits, load, np.inf)
        blockwise = seat_demand(system, node, np.arange(blocks), np.arange(1, blocks + 1), self._arrays)
        compute = blockwise.resources[0]
        base = compute.batch * system.batches + compute.device * len(system.devices)
        return SingleNodeFigures(base, base * node.hardware.threads, latency, loads)

    def _make(self, starts: Indices, ends: Indices) -> Array:
        """Return figures [row, set, pair] of the stages [starts, ends); infinite load if they do not fit."""
        system = self._system
        batches, devices = system.batches, len(system.devices)
        demands = [seat_demand(system, node, starts, ends, self._arrays) for node in self._kinds.examples]
        speeds = np.array([1 / np.maximum(kind.full_load_s(batches, devices), NO_TIME) for kind in demands])
        together = self.counts @ speeds
        figures = np.zeros((HOSTS + len(self._host_names), *together.shape))
        figures[LOAD] = 1 / together
        admitted = np.full(together.shape, float(devices))
        for kind, (node, demand) in enumerate(zip(self._kinds.examples, demands, strict=True)):
            using = np.nonzero(self.counts[:, kind])[0]
            share = speeds[kind] / together[using]
            for busy in _with_weights(demand):
                load = share * (busy.batch * batches + busy.device * devices) + busy.round
                figures[LOAD, using] = np.maximum(figures[LOAD, using], load)
            figures[SLOWEST, using] = np.maximum(figures[SLOWEST, using], demand.slowest)
            figures[LATENCY, using] = np.maximum(figures[LATENCY, using], demand.latency)
            copies = np.floor((node.memory - demand.memory.fixed) / demand.memory.each)
            largest = np.maximum(np.floor((copies + ROUNDING_SLACK) / share), 1.0)
            admitted[using] = np.minimum(admitted[using], np.where(copies < 1, 0.0, largest))
            if node.host is not None:
                cores = demand.core_seconds
                figures[HOSTS + self._host_names.index(node.host), using] += self.counts[using, kind, None] * (
                    share * (cores.batch * batches + cores.device * devices) + cores.round
                )
        figures[LOAD][admitted < (system.admit or 1)] = np.inf
        figures[WAVES] = np.ceil(devices / (system.admit or np.maximum(admitted, 1)))
        crossing = self._arrays.crossing[ends]
        replicas = self.counts.sum(axis=1)[:, None]
        part = self._arrays.parameters[ends] - self._arrays.parameters[starts]
        figures[LATENCY] += crossing * system.broker_s_per_byte
        figures[PASSED] = batches * crossing + 2 * part * replicas
        figures[HOPS] = 1
        if self._kinds.states < 2**53:
            figures[STATE] = self._kinds.states_of(self.counts.astype(np.int64))[:, None]
        figures[WEIGHTS:HOSTS] = (self.weights @ self.counts.T)[:, :, None]
        figures[PRICE] = (self.counts @ np.array([node.price for node in self._kinds.examples]))[:, None]
        return figures


def _with_weights(demand: SeatDemand) -> list[Any]:
    """Return the resources that the stage's shared pace does not cover: those that carry weights once per round."""
    distinct: list[Any] = []
    for busy in demand.resources:
        if np.any(busy.round) and not any(
            np.array_equal(busy.batch, other.batch) and np.array_equal(busy.round, other.round) for other in distinct
        ):
            distinct.append(busy)
    return distinct
