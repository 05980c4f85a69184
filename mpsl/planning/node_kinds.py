"""Symmetry breaking: nodes with equal figures are one kind, so a set of nodes is a count for each kind.

Placements that differ only by nodes of one kind have the same value and are searched once. A set is
kept as one integer with a spare bit above each count (packed counters), so that the test "are these nodes still free"
is one subtraction for a whole array. Nothing here knows of stages or time.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.system import Node, System

MAX_SETS = 4096
"""With more replica sets than this, the search gets only sets of equal nodes and the fastest j nodes of all."""

Codes = NDArray[Any]
"""Sets of nodes as integers: int64 if they fit, Python's integers otherwise."""


@dataclass(frozen=True)
class NodeKinds:
    """The kinds of a fleet's nodes; `members[q]` are the indices of kind q's nodes, `examples[q]` one of them."""

    members: tuple[tuple[int, ...], ...]
    examples: tuple[Node, ...]

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The number of nodes of each kind."""
        return tuple(map(len, self.members))

    @property
    def states(self) -> int:
        """The number of sets of nodes, including the empty set and the full one."""
        return prod(count + 1 for count in self.counts)

    def states_of(self, sets: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each set [set, kind]; the number of a disjoint union is the sum. Only for few `states`."""
        sizes = [count + 1 for count in self.counts]
        return np.asarray(sets @ np.array([prod(sizes[place + 1 :]) for place in range(len(sizes))]), np.int64)

    @cached_property
    def _shifts(self) -> tuple[int, ...]:
        widths = [count.bit_length() + 1 for count in self.counts]
        return (0, *itertools.accumulate(widths))

    @cached_property
    def spare(self) -> int:
        """The spare bits."""
        return sum(1 << (end - 1) for end in self._shifts[1:])

    @cached_property
    def all(self) -> int:
        """The code of all nodes."""
        return self.code(self.counts)

    def code(self, counts: Sequence[int]) -> int:
        """Return the code of a set."""
        return sum(int(count) << shift for count, shift in zip(counts, self._shifts, strict=False))

    def codes(self, sets: Sequence[Sequence[int]]) -> Codes:
        """Return the codes of many sets."""
        return np.array([self.code(counts) for counts in sets], np.int64 if self._shifts[-1] <= 62 else object)

    def within(self, inner: Codes, outer: Codes) -> NDArray[np.bool_]:
        """Whether the set `inner` is a subset of the set `outer`; both broadcast."""
        return np.asarray(((outer | self.spare) - inner) & self.spare == self.spare, bool)

    def nodes(self, sets: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Return nodes for each set, the first free ones of each kind."""
        free = [iter(members) for members in self.members]
        return tuple(
            tuple(next(free[kind]) for kind, count in enumerate(counts) for _ in range(count)) for counts in sets
        )


def kinds_of(system: System) -> NodeKinds:
    """Group the nodes of `system` by their figures, kinds in the order in which they first appear."""
    groups: dict[object, list[int]] = {}
    for index, node in enumerate(system.nodes):
        groups.setdefault((node.hardware, node.memory, node.rate, node.price, node.host), []).append(index)
    return NodeKinds(tuple(map(tuple, groups.values())), tuple(system.nodes[indices[0]] for indices in groups.values()))


def single_sets(kinds: NodeKinds) -> list[tuple[int, ...]]:
    """One replica: one node of each kind."""
    return [tuple(int(q == kind) for q in range(len(kinds.counts))) for kind in range(len(kinds.counts))]


def replica_sets(kinds: NodeKinds, most: int, by_speed: Sequence[int]) -> tuple[list[tuple[int, ...]], bool]:
    """Return the sets of up to `most` nodes that may share a stage, and whether these are all of them.

    `by_speed` lists the kinds, fastest first; it only matters if there are too many sets.
    """
    if kinds.states <= MAX_SETS:
        every = itertools.product(*(range(count + 1) for count in kinds.counts))
        return [counts for counts in every if 0 < sum(counts) <= most], True
    chosen = {
        tuple(n if q == kind else 0 for q in range(len(kinds.counts)))
        for kind, count in enumerate(kinds.counts)
        for n in range(1, count + 1)
    }
    fastest = [0] * len(kinds.counts)
    for kind in by_speed:
        for _ in range(kinds.counts[kind]):
            fastest[kind] += 1
            chosen.add(tuple(fastest))
    return sorted(counts for counts in chosen if sum(counts) <= most), False
