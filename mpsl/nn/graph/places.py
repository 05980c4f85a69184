"""Chooses where the blocks of a graph begin: at the calls of modules, where few bytes are live.

A place that is inside the call of a small module, and where more than one value is live and more bytes than at both of
its ends, is left out. Of places between which hardly anything is computed or stored, the one with the fewest bytes
stays. The choice depends on the model alone, never on a fleet: blocks seed the random numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx

from mpsl.nn.graph.flow import Flow

SMALL_SHARE = 0.5
"""A module is small if it has at most this share of the model's operations, and of its weights."""
LEAST_SHARE = 1 / 64
"""The least share of the model's operations or weights that a block has, unless fewer bytes are live at its end."""
MAX_BLOCKS = 64
BATCH = 2
"""The batch size at which bytes are compared."""


@dataclass(frozen=True)
class Places:
    """Where blocks begin, and what the other places are."""

    starts: tuple[int, ...]
    """The first step of each block."""
    names: tuple[str, ...]
    """The module at whose call each block begins; the first block may have none."""
    steps: Mapping[str, int]
    """For every module that is called, the step at which its first call begins."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Modules at whose call no block can begin, and why."""


def choose(flow: Flow, operations: Sequence[float], weights: Mapping[str, int]) -> Places:
    """Choose the blocks of `flow`. `operations`: of each step. `weights`: the bytes of each state."""
    spans = _spans(flow)
    steps = {path: first for path, (first, _) in spans.items()}
    names: dict[int, str] = {}
    for path, first in sorted(steps.items(), key=lambda item: _unlikeliness(item[0])):
        names.setdefault(first, path)
    reasons = {place: flow.why_not(place) for place in names if place > 0}
    refused = {path: reasons[place] for path, place in steps.items() if reasons.get(place)}
    share = _Shares(flow, operations, weights)
    live = {place: flow.live(place) for place in {0, *reasons, *(end for _, end in spans.values())}}
    nbytes = {place: sum(flow.nbytes(node, BATCH) for node in _tensors(nodes)) for place, nodes in live.items()}
    possible = sorted(place for place, reason in reasons.items() if not reason)
    inside = {
        place
        for first, end in spans.values()
        if share.between(first, end) <= SMALL_SHARE
        for place in possible
        if first < place < end and len(live[place]) > 1 and nbytes[place] > max(nbytes[first], nbytes[end])
    }
    kept = [place for place in possible if place not in inside]
    least = LEAST_SHARE
    starts = [0, *_thinned(kept, nbytes, names, share, least)]
    while len(starts) > MAX_BLOCKS:
        least *= 2
        starts = [0, *_thinned(kept, nbytes, names, share, least)]
    starts, shared = _shared_kept_together(starts, flow, weights)
    for path, place in steps.items():
        if place in shared:
            refused[path] = shared[place]
    return Places(tuple(starts), tuple(names.get(start, "") for start in starts), steps, refused)


def _tensors(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if isinstance(node.meta["val"], torch.Tensor)]


def _spans(flow: Flow) -> dict[str, tuple[int, int]]:
    """The steps [first, end) of the first call of each module."""
    found: dict[str, tuple[int, int]] = {}
    for number, node in enumerate(flow.steps):
        for path in flow.graph.paths[node]:
            found[path] = (found[path][0] if path in found else number, number + 1)
    return found


class _Shares:
    """The share of the model's operations and weights between two places: the larger of both."""

    def __init__(self, flow: Flow, operations: Sequence[float], weights: Mapping[str, int]) -> None:
        self._operations = _sums(operations)
        owned = [0.0] * len(flow.steps)
        for name, uses in flow.uses.items():
            owned[uses[0]] += weights[name]
        self._weights = _sums(owned)

    def between(self, first: int, end: int) -> float:
        return max((sums[end] - sums[first]) / (sums[-1] or 1.0) for sums in (self._operations, self._weights))


def _sums(values: Sequence[float]) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return sums


def _unlikeliness(path: str) -> tuple[bool, int]:
    """Orders the names of one place: people think of `layers.3` before `layers`, and of that before `layers.3.norm`."""
    return not path.rpartition(".")[2].isdigit(), path.count(".")


def _thinned(
    places: Sequence[int], nbytes: Mapping[int, int], names: Mapping[int, str], share: _Shares, least: float
) -> list[int]:
    """Of places that are closer than `least`, the one with the fewest bytes, and of equals the likeliest name."""
    kept: list[int] = []

    def rank(place: int) -> tuple[int, tuple[bool, int]]:
        return nbytes[place], _unlikeliness(names[place])

    for place in places:
        if not kept or share.between(kept[-1], place) >= least:
            kept.append(place)
        elif rank(place) < rank(kept[-1]):
            kept[-1] = place
    return kept


def _shared_kept_together(
    starts: list[int], flow: Flow, weights: Mapping[str, int]
) -> tuple[list[int], dict[int, str]]:
    """Join blocks until every state is in one block, or in the first and the last, which are on the device.

    Also returns why a block cannot begin at a place that was one.
    """
    refused: dict[int, str] = {}
    for name, steps in sorted(flow.uses.items(), key=lambda item: item[1][0]):
        blocks = sorted({_block_of(starts, step) for step in steps})
        if len(blocks) < 2 or (blocks == [0, len(starts) - 1] and name not in flow.changed_states):
            continue
        gap = max(range(1, len(blocks)), key=lambda number: blocks[number] - blocks[number - 1])
        ends = [*range(1, blocks[gap - 1] + 1), *range(blocks[gap] + 1, len(starts))]
        middle = list(range(blocks[0] + 1, blocks[-1] + 1))
        drop = middle if len(middle) <= len(ends) or name in flow.changed_states else ends
        for number in drop:
            refused[starts[number]] = f"{name} is used on both sides, and a weight is in one part"
        starts = [start for number, start in enumerate(starts) if number not in drop]
    return starts, refused


def _block_of(starts: Sequence[int], step: int) -> int:
    return max(number for number, start in enumerate(starts) if start <= step)
