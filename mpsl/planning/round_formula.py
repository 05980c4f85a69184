"""The objective as a function of what a chain sums up, for many chains at once and for every pair of device cuts.

Says the same as `objective.py`, rearranged: what depends on the devices is added up once for each pair of cuts[0] and
cuts[-1], so that judging a chain costs a few array operations.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mpsl.planning.stage_table import HOSTS, LATENCY, LOAD, PASSED, SLOWEST, WAVES, Array, Indices
from mpsl.planning.system import System
from mpsl.planning.terms import Columns, device_terms

Index = int | slice | Indices
"""One pair of device cuts, all of them, or one for each chain."""


class RoundFormula:
    """The pairs of device cuts that fit every device, and the round's time over each of them."""

    def __init__(self, system: System, columns: Columns, pairs: Sequence[tuple[int, int]]) -> None:
        self._system = system
        first, last = np.array(pairs, np.int64).reshape(-1, 2).T
        alike = Counter(dataclasses.replace(device, id="") for device in system.devices)
        terms = [(device, count, device_terms(system, device, first, last, columns)) for device, count in alike.items()]
        fits = np.logical_and.reduce([figures.memory_bytes <= device.memory for device, _, figures in terms])
        self.first, self.last = first[fits], last[fits]
        # With micro-batches each device waits for the slowest machine on its way: one of the chain's, or its own.
        share = system.waiting_share
        self._own = np.maximum.reduce([f.latency for _, _, f in terms])[fits]
        self._own_waiting = np.maximum.reduce([f.latency + share * f.slowest for _, _, f in terms])[fits]
        self._waiting = [(count * device.batches, np.asarray(f.slowest)[fits]) for device, count, f in terms]
        rounds = [
            (device.batches, count, device.batches * f.latency + f.weights, device.batches * share * f.slowest)
            for device, count, f in terms
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

    def figures(self, pair: int) -> Array:
        """All that the devices add to a round between this pair of cuts."""
        longest = [seconds[pair] for both in self._longest.values() for seconds in both]
        waiting = [slowest[pair] for _, slowest in self._waiting]
        hosts = [seconds[pair] for _, _, seconds, _ in self._hosts]
        own = self._own[pair], self._own_waiting[pair], self._sum[pair]
        return np.array([*self.start[:, pair], *own, *longest, *waiting, *hosts])

    def busiest(self, pair: Index, chain: Array) -> Array:
        """Seconds a round of the busiest resource; `chain` has the rows of a table first and any shape after."""
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

    def seconds(self, pair: Index, chain: Array) -> Array:
        """The round's time T."""
        return np.asarray(self.busiest(pair, chain) + self._longest_cycle(pair, chain))

    def limits(self, pair: int, least: Array, seconds: float) -> tuple[float, float]:
        """The most load and waves of any stage in a round below `seconds`, when the chain has at least `least`."""
        busy = max(0.0, seconds - float(self._longest_cycle(pair, least)))
        cycles = float(self._all_cycles(pair, least))
        waves = busy * len(self._system.devices) / cycles if cycles > 0 else np.inf
        return busy, waves

    def _longest_cycle(self, pair: Index, chain: Array) -> Array:
        """The slowest device's cycle, one batch's latency through the empty system."""
        share, own = self._system.waiting_share, self._own[pair]
        if share:
            own = np.maximum(own + share * chain[SLOWEST], self._own_waiting[pair])
        return np.asarray(own + chain[LATENCY])

    def _all_cycles(self, pair: Index, chain: Array) -> Array:
        """The sum of all devices' cycles of a round, and of the seconds that their weights travel."""
        seconds = self._sum[pair] + self._system.batches * chain[LATENCY]
        if self._system.waiting_share:
            for batches, slowest in self._waiting:
                seconds = seconds + self._system.waiting_share * batches * np.maximum(chain[SLOWEST], slowest[pair])
        return np.asarray(seconds)
