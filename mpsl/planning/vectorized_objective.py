"""The objective for many chains at once: the formula of `objective.py`, rearranged for arrays.

The devices' terms are added up once for each pair of cuts[0] and cuts[-1] (a "cut pair"), so that judging a chain costs
a few array operations. The results must equal those of `objective.py`; the brute-force tests compare the two.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.service_demand import SystemArrays, device_demand
from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, PASSED, SLOWEST, WAVES, Array, Indices
from mpsl.planning.system import System

Index = int | slice | Indices
"""One cut pair, all of them, or one for each chain."""

NOISE_BITS = 16
"""The number of ignored bits of a float's 52.

Figures count as equal within 10⁻¹¹ of themselves, a hundredth of the tolerance of a proof.
"""


class VectorizedObjective:
    """The cut pairs whose device parts fit every device's memory, and the round's time over each of them."""

    def __init__(self, system: System, arrays: SystemArrays, pairs: Sequence[tuple[int, int]]) -> None:
        self._system = system
        first, last = np.array(pairs, np.int64).reshape(-1, 2).T
        alike = Counter(dataclasses.replace(device, id="") for device in system.devices)
        demands = [
            (device, count, device_demand(system, device, first, last, arrays)) for device, count in alike.items()
        ]
        fits = np.logical_and.reduce([figures.memory_bytes <= device.memory for device, _, figures in demands])
        self.first, self.last = first[fits], last[fits]
        # With micro-batches each device waits for the slowest machine on its path: one of the chain's, or its own.
        share = system.waiting_share
        self._own = np.maximum.reduce([f.latency for _, _, f in demands])[fits]
        self._own_waiting = np.maximum.reduce([f.latency + share * f.slowest for _, _, f in demands])[fits]
        self._waiting = [(count * device.batches, np.asarray(f.slowest)[fits]) for device, count, f in demands]
        rounds = [
            (device.batches, count, device.batches * f.latency + f.weights, device.batches * share * f.slowest)
            for device, count, f in demands
        ]
        self._sum = np.sum([count * seconds for _, count, seconds, _ in rounds], axis=0)[fits]
        self._longest = {
            batches: (
                np.maximum.reduce([seconds for other, _, seconds, _ in rounds if other == batches])[fits],
                np.maximum.reduce([seconds + waits for other, _, seconds, waits in rounds if other == batches])[fits],
            )
            for batches in sorted({batches for batches, *_ in rounds})
        }
        self._hosts = [
            (
                row,
                cores,
                np.sum([n * f.core_seconds for device, n, f in demands if device.host == host], axis=0)
                + np.zeros(len(first)),
                system.broker_s_per_byte if system.broker_host == host else 0.0,
            )
            for row, (host, cores) in enumerate(system.hosts.items(), start=HOSTS)
        ]
        self._hosts = [(row, cores, seconds[fits], broker) for row, cores, seconds, broker in self._hosts]
        part = arrays.parameters[self.first] + arrays.parameters[-1] - arrays.parameters[self.last]
        self.initial = np.zeros((HOSTS + len(system.hosts), len(self.first)))
        """Return [row, pair]: the figures of a chain before its first stage."""
        crossing = arrays.crossing[self.first]
        self.initial[LATENCY] = crossing * system.broker_s_per_byte
        self.initial[PASSED] = system.batches * crossing + 2 * part * len(system.devices)
        self.initial[WAVES] = -(-len(system.devices) // (system.admit or len(system.devices)))

    def device_figures(self, pair: int) -> Array:
        """Everything that the devices contribute to a round with this cut pair."""
        longest = [seconds[pair] for both in self._longest.values() for seconds in both]
        waiting = [slowest[pair] for _, slowest in self._waiting]
        hosts = [seconds[pair] for _, _, seconds, _ in self._hosts]
        own = self._own[pair], self._own_waiting[pair], self._sum[pair]
        return np.array([*self.initial[:, pair], *own, *longest, *waiting, *hosts])

    def busiest_s(self, pair: Index, chain: Array) -> Array:
        """Busy seconds of the busiest resource in a round; `chain` has the rows of a stage table, then any shape."""
        system = self._system
        latency, share = chain[LATENCY], system.waiting_share
        busy = np.maximum(chain[LOAD], chain[PASSED] / system.broker_rate)
        busy = np.maximum(busy, self._all_cycles(pair, chain) * chain[WAVES] / len(system.devices))
        for batches, (seconds, waiting) in self._longest.items():
            longest = seconds[pair] + batches * latency
            if share:
                longest = np.maximum(longest + batches * share * chain[SLOWEST], waiting[pair] + batches * latency)
            busy = np.maximum(busy, longest)
        for row, cores, seconds, broker in self._hosts:
            passing = broker * chain[PASSED] if broker else 0.0
            busy = np.maximum(busy, (seconds[pair] + chain[row] + passing) / cores)
        return np.asarray(busy)

    def round_s(self, pair: Index, chain: Array) -> Array:
        """Return the round's time T."""
        return np.asarray(self.busiest_s(pair, chain) + self._longest_cycle(pair, chain))

    def stage_limits(self, pair: int, least: Array, seconds: float) -> tuple[float, float]:
        """Return the largest load and waves of any stage in a round below `seconds`; the chain has at least `least`."""
        busy = max(0.0, seconds - float(self._longest_cycle(pair, least)))
        cycles = float(self._all_cycles(pair, least))
        waves = busy * len(self._system.devices) / cycles if cycles > 0 else np.inf
        return busy, waves

    def _longest_cycle(self, pair: Index, chain: Array) -> Array:
        """Return the slowest device's cycle, one batch's latency through the empty system."""
        share, own = self._system.waiting_share, self._own[pair]
        if share:
            own = np.maximum(own + share * chain[SLOWEST], self._own_waiting[pair])
        return np.asarray(own + chain[LATENCY])

    def _all_cycles(self, pair: Index, chain: Array) -> Array:
        """Return the seconds of all devices' cycles in a round together, and of sending their weights."""
        seconds = self._sum[pair] + self._system.batches * chain[LATENCY]
        if self._system.waiting_share:
            for batches, slowest in self._waiting:
                seconds = seconds + self._system.waiting_share * batches * np.maximum(chain[SLOWEST], slowest[pair])
        return np.asarray(seconds)


class EquivalentCutPairs:
    """Finds cut pairs for which the search would only repeat a proof.

    Models repeat blocks. Two cut pairs are equivalent if everything in a plan's value is equal: the blocks and cuts
    between them, and the devices' work. Pairs that differ by more than rounding are never equivalent.
    """

    def __init__(self, objective: VectorizedObjective, arrays: SystemArrays, kinds: NodeKinds) -> None:
        self._objective = objective
        times = {id(node.hardware): arrays.seconds[id(node.hardware)] for node in kinds.examples}
        sums = np.array([arrays.parameters, arrays.optimizer, arrays.stored, *times.values()])
        self._blocks = np.diff(sums)
        self._cuts = np.array([arrays.output, arrays.activation, arrays.gradient])
        self._seen: set[tuple[bytes, ...]] = set()

    def seen_before(self, pair: int) -> bool:
        """Whether this pair is equivalent to one of an earlier call."""
        first, last = int(self._objective.first[pair]), int(self._objective.last[pair])
        about = self._blocks[:, first:last], self._cuts[:, first : last + 1], self._objective.device_figures(pair)
        key = tuple(map(_rounded, about))
        known = key in self._seen
        self._seen.add(key)
        return known


def _rounded(figures: NDArray[np.float64]) -> bytes:
    bits = np.ascontiguousarray(figures).view(np.int64)
    return bytes((bits + (1 << NOISE_BITS - 1)) >> NOISE_BITS)
