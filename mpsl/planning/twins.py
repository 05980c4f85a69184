"""Pairs of device cuts between which the very same lies: what is known of one holds for the other.

Models repeat blocks, and moving both cuts by as many blocks then changes nothing: the search would prove the same of
each pair again. It must never take for the same what differs by more than sums of floats do.
"""

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.node_kinds import NodeKinds
from mpsl.planning.round_formula import RoundFormula
from mpsl.planning.terms import Columns

NOISE_BITS = 16
"""Of a float's 52: what is told apart differs by more than 10⁻¹¹ of itself, a hundredth of what a proof allows for."""


class Twins:
    """Tells pairs apart by all that enters a plan's value: what lies between the cuts, and what the devices do."""

    def __init__(self, formula: RoundFormula, columns: Columns, kinds: NodeKinds) -> None:
        self._formula = formula
        times = {id(node.hardware): columns.seconds[id(node.hardware)] for node in kinds.examples}
        sums = np.array([columns.parameters, columns.stored, *times.values()])
        self._blocks = np.diff(sums)
        self._cuts = np.array([columns.output, columns.activation, columns.gradient])
        self._seen: set[tuple[bytes, ...]] = set()

    def seen(self, pair: int) -> bool:
        """Whether a pair that this was asked of before is the same."""
        first, last = int(self._formula.first[pair]), int(self._formula.last[pair])
        about = self._blocks[:, first:last], self._cuts[:, first : last + 1], self._formula.figures(pair)
        key = tuple(map(_rounded, about))
        known = key in self._seen
        self._seen.add(key)
        return known


def _rounded(figures: NDArray[np.float64]) -> bytes:
    bits = np.ascontiguousarray(figures).view(np.int64)
    return bytes((bits + (1 << NOISE_BITS - 1)) >> NOISE_BITS)
