"""Chains of stages under construction that end at the same block, as arrays, and which of them need not go on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import Codes, NodeKinds
from mpsl.planning.stage_table import Array

NEIGHBOURS = 12
"""How many better-placed neighbours each chain is compared with. More finds more that can be dropped, and takes longer."""

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Chains:
    """n chains: figures [row, n], the nodes used, the id of the chain each one extends, and the set of its last stage."""

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
