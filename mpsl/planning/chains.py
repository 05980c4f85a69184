"""Chains of stages under construction that end at the same block, as arrays, and which of them need not go on."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import Codes, NodeKinds
from mpsl.planning.stage_table import Array, Indices

NEIGHBOURS = 12
"""How many better-placed neighbours each chain is compared with. More can be dropped with more, but it takes longer."""


@dataclass(frozen=True)
class Chains:
    """n chains: figures [row, n], the nodes used, the id of the chain that each extends, the set of its last stage."""

    figures: Array
    used: Codes
    parents: Indices
    sets: Indices

    def __len__(self) -> int:
        return int(self.figures.shape[1])

    def take(self, chosen: NDArray[Any]) -> "Chains":
        """Those at the indices, or under the mask, `chosen`."""
        return Chains(self.figures[:, chosen], self.used[chosen], self.parents[chosen], self.sets[chosen])


def joined(groups: Sequence[Chains]) -> Chains:
    """All of them as one."""
    if len(groups) == 1:
        return groups[0]
    return Chains(
        np.concatenate([chains.figures for chains in groups], axis=1),
        np.concatenate([chains.used for chains in groups]),
        np.concatenate([chains.parents for chains in groups]),
        np.concatenate([chains.sets for chains in groups]),
    )


def undominated(chains: Chains, criteria: Array, kinds: NodeKinds, fewer_nodes: bool) -> Chains:
    """Drop chains to which another is at least as good in all `criteria` [criterion, n] and has used the same nodes.

    With `fewer_nodes`, the other may also have used only some of them. Not every such chain is found.
    """
    for by_nodes in (True, False) if fewer_nodes else (True,):
        if len(chains) < 2:
            break
        keys = [criteria[0], criteria[1]]
        if by_nodes:
            keys.append(np.unique(chains.used, return_inverse=True)[1])
        order = np.lexsort(keys)
        used, sorted_criteria = chains.used[order], criteria[:, order]
        worse = np.zeros(len(chains), bool)
        for step in range(1, min(NEIGHBOURS, len(chains) - 1) + 1):
            better = (sorted_criteria[:, :-step] <= sorted_criteria[:, step:]).all(axis=0)
            if by_nodes:
                better &= used[:-step] == used[step:]
            else:
                better &= kinds.within(used[:-step], used[step:])
            worse[step:] |= better
        kept = np.sort(order[~worse])
        chains, criteria = chains.take(kept), criteria[:, kept]
    return chains


class Trail:
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

    def back(self, chain: int) -> tuple[tuple[int, ...], list[int]]:
        """The cuts of a chain, and the sets of its stages."""
        cuts: list[int] = []
        sets: list[int] = []
        while chain >= 0:
            block, chain, last_set = self._step(chain)
            cuts.insert(0, block)
            if chain >= 0:
                sets.insert(0, last_set)
        return tuple(cuts), sets

    def _step(self, chain: int) -> tuple[int, int, int]:
        """The block where chain ends, the chain that it extends (-1 for none) and the set of its last stage."""
        group = bisect_right(self._starts, chain) - 1
        block, chains = self._groups[group]
        place = chain - self._starts[group]
        return block, int(chains.parents[place]), int(chains.sets[place])
