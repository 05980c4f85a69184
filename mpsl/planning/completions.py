"""What the rest of a chain costs at least for every set of nodes that may be left: exact for each figure on its own.

A table over all sets of free nodes and all blocks, filled backwards from the last cut. Dear to make, so that the search
asks for it only where cheap bounds leave too many chains; impossible where there are too many sets.
"""

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.offers import Offers
from mpsl.planning.stage_table import LATENCY, LOAD, STATE, Array

MAX_STATES = 4096
"""Sets of nodes beyond which the table is not made."""


class Completions:
    """latency[block, free] and load[block, free]: the least to come when the nodes of number `free` are left."""

    def __init__(self, offers: Offers, kinds: NodeKinds, hops: int | None) -> None:
        self._counts = np.stack(np.unravel_index(np.arange(kinds.states), [count + 1 for count in kinds.counts]))
        self._rooms: dict[int, NDArray[np.int64]] = {}
        self._all = kinds.states - 1
        self.latency = np.full((offers.last + 1, kinds.states), np.inf)
        used = sum(kinds.counts) - self._counts.sum(axis=0)
        self.latency[offers.last, np.full(kinds.states, True) if hops is None else used == hops] = 0.0
        self.load = np.where(np.isfinite(self.latency), 0.0, np.inf)
        for block in range(offers.last - 1, offers.first - 1, -1):
            stages = offers.at[block]
            ends, columns = np.unique(stages.ends, return_inverse=True)
            taken, rows = np.unique(stages.figures[STATE].astype(np.int64), return_inverse=True)
            own = np.full((2, len(ends), len(taken)), np.inf)
            own[:, columns, rows] = stages.figures[[LATENCY, LOAD]]
            rooms = [self._room(int(number)) for number in taken]
            sizes = np.array([len(room) for room in rooms])
            # Sets that leave equally many choices go together: thousands of small steps would cost more than the sums.
            for size in np.unique(sizes):
                sets = np.nonzero(sizes == size)[0]
                room = np.stack([rooms[number] for number in sets])
                left = room - taken[sets, None]
                latency, load = own[:, :, sets, None]
                latency = np.min(latency + np.take(self.latency[ends], left, axis=1), axis=0)
                load = np.min(np.maximum(load, np.take(self.load[ends], left, axis=1)), axis=0)
                np.minimum.at(self.latency[block], room, latency)
                np.minimum.at(self.load[block], room, load)

    def _room(self, taken: int) -> NDArray[np.int64]:
        """The numbers of the sets of free nodes that have those of number `taken` in them."""
        if taken not in self._rooms:
            self._rooms[taken] = np.nonzero((self._counts >= self._counts[:, taken, None]).all(axis=0))[0]
        return self._rooms[taken]

    def complete(self, chain: Array, whole: Array, block: int | NDArray[np.int64]) -> None:
        """Raise the latency and load of `whole`, a bound of what completes `chain`, to what this table knows."""
        free = self._all - chain[STATE].astype(np.int64)
        whole[LATENCY] = np.maximum(whole[LATENCY], chain[LATENCY] + self.latency[block, free])
        whole[LOAD] = np.maximum(whole[LOAD], self.load[block, free])
