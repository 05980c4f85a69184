"""What the rest of a chain costs at least for every set of nodes that may be left: exact for each figure on its own.

A table over all sets of free nodes and all blocks, filled backwards from the last cut. Dear to make, so that the search
asks for it only where cheap bounds leave too many chains; impossible where there are too many sets.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.offers import Offers
from mpsl.planning.stage_table import LATENCY, LOAD, STATE, Array

MOST_STATES = 4096
"""Sets of nodes beyond which the table is not made."""


class Completions:
    """latency[block, free] and load[block, free]: the least to come when the nodes of number `free` are left."""

    def __init__(self, offers: Offers, kinds: NodeKinds, hops: int | None) -> None:
        counts = np.stack(np.unravel_index(np.arange(kinds.states), [count + 1 for count in kinds.counts]))
        self._all = kinds.states - 1
        blocks = offers.last + 1
        self.latency = np.full((blocks, kinds.states), np.inf)
        used = sum(kinds.counts) - counts.sum(axis=0)
        self.latency[offers.last, np.full(kinds.states, True) if hops is None else used == hops] = 0.0
        self.load = np.where(np.isfinite(self.latency), 0.0, np.inf)
        rooms: dict[int, NDArray[np.int64]] = {}
        for block in range(offers.last - 1, offers.first - 1, -1):
            stages = offers.at[block]
            borders = np.nonzero(np.diff(stages.sets, prepend=-1, append=-1))[0]
            for begin, end in pairwise(borders.tolist()):
                taken = int(stages.figures[STATE, begin])
                if taken not in rooms:
                    needed = counts[:, taken, None]
                    rooms[taken] = np.nonzero((counts >= needed).all(axis=0))[0]
                room = rooms[taken]
                ends = stages.ends[begin:end, None]
                latency = stages.figures[LATENCY, begin:end, None] + self.latency[ends, room - taken]
                load = np.maximum(stages.figures[LOAD, begin:end, None], self.load[ends, room - taken])
                self.latency[block, room] = np.minimum(self.latency[block, room], latency.min(axis=0))
                self.load[block, room] = np.minimum(self.load[block, room], load.min(axis=0))

    def complete(self, chain: Array, whole: Array, block: int | NDArray[np.int64]) -> None:
        """Raise the latency and load of `whole`, a bound of what completes `chain`, to what this table knows."""
        free = self._all - chain[STATE].astype(np.int64)
        whole[LATENCY] = np.maximum(whole[LATENCY], chain[LATENCY] + self.latency[block, free])
        whole[LOAD] = np.maximum(whole[LOAD], self.load[block, free])
