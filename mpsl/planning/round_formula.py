"""The objective as a function of what a chain sums up, for many chains at once and for every pair of device cuts.

Says the same as `objective.py`, rearranged: what depends on the devices is added up once for each pair of cuts[0] and
cuts[-1], so that judging a chain costs a few array operations.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, PASSED, SLOWEST, WAVES, Array
from mpsl.planning.system import System
from mpsl.planning.terms import Columns, device_terms

Index = int | slice
"""One pair of device cuts, or all of them."""


class RoundFormula:
    """The pairs of device cuts that fit every device, and the round's time over each of them."""

    def __init__(self, system: System, columns: Columns, pairs: Sequence[tuple[int, int]]) -> None:
        self._system = system
        first, last = np.array(pairs, np.int64).reshape(-1, 2).T
        alike = Counter(dataclasses.replace(device, id="") for device in system.devices)
        terms = [(device, count, device_terms(system, device, first, last, columns)) for device, count in alike.items()]
        fits = np.logical_and.reduce([figures.memory_bytes <= device.memory for device, _, figures in terms])
        self.first, self.last = first[fits], last[fits]
        self._own = np.maximum.reduce([figures.latency for _, _, figures in terms])[fits]
        self._slowest = np.maximum.reduce([figures.slowest for _, _, figures in terms])[fits]
        rounds = [(device.batches, count, device.batches * f.latency + f.weights) for device, count, f in terms]
        self._sum = np.sum([count * seconds for _, count, seconds in rounds], axis=0)[fits]
        self._longest = {
            batches: np.maximum.reduce([seconds for other, _, seconds in rounds if other == batches])[fits]
            for batches in sorted({batches for batches, _, _ in rounds})
        }
        self._hosts = [
            (
                row,
                cores,
                np.sum([n * f.core_seconds for device, n, f in terms if device.host == host], axis=0)
                + np.zeros(len(first)),
                system.broker_s_per_byte if system.broker_host == host else 0.0,
            )
            for row, (host, cores) in enumerate(system.hosts.items(), start=HOSTS)
        ]
        self._hosts = [(row, cores, seconds[fits], broker) for row, cores, seconds, broker in self._hosts]
        part = columns.parameters[self.first] + columns.parameters[-1] - columns.parameters[self.last]
        self.start = np.zeros((HOSTS + len(system.hosts), len(self.first)))
        """What a chain sums up before its first stage, [row, pair]."""
        crossing = columns.crossing[self.first]
        self.start[LATENCY] = crossing * system.broker_s_per_byte
        self.start[PASSED] = system.batches * crossing + 2 * part * len(system.devices)
        self.start[WAVES] = -(-len(system.devices) // (system.admit or len(system.devices)))

    def busiest(self, pair: Index, chain: Array) -> Array:
        """Seconds a round of the busiest resource; `chain` has the rows of a table first and any shape after."""
        system = self._system
        latency = self._shared_latency(pair, chain)
        busy = np.maximum(chain[LOAD], chain[PASSED] / system.broker_rate)
        cycles = self._sum[pair] + system.batches * latency
        busy = np.maximum(busy, cycles * chain[WAVES] / len(system.devices))
        for batches, seconds in self._longest.items():
            busy = np.maximum(busy, seconds[pair] + batches * latency)
        for row, cores, seconds, broker in self._hosts:
            passing = broker * chain[PASSED] if broker else 0.0
            busy = np.maximum(busy, (seconds[pair] + chain[row] + passing) / cores)
        return np.asarray(busy)

    def seconds(self, pair: Index, chain: Array) -> Array:
        """The round's time T."""
        return np.asarray(self.busiest(pair, chain) + self._own[pair] + self._shared_latency(pair, chain))

    def limits(self, pair: int, least: Array, seconds: float) -> tuple[float, float]:
        """The most load and waves of any stage in a round below `seconds`, when the chain has at least `least`."""
        latency = self._shared_latency(pair, least)
        busy = max(0.0, seconds - float(self._own[pair] + latency))
        cycles = float(self._sum[pair] + self._system.batches * latency)
        waves = busy * len(self._system.devices) / cycles if cycles > 0 else np.inf
        return busy, waves

    def _shared_latency(self, pair: Index, chain: Array) -> Array:
        """What every device's cycle has in common: all stages, the broker, and the slowest machine's micro-batches."""
        share = self._system.waiting_share
        if not share:
            return np.asarray(chain[LATENCY])
        return np.asarray(chain[LATENCY] + share * np.maximum(chain[SLOWEST], self._slowest[pair]))
