"""Where a model is cut: validates a list of cuts, and finds the even one.

A cut is an index into the model's blocks. `[2, 5, 8]` leaves the device blocks 0-1 and 8 to the end and gives hop 1
blocks 2-4 and hop 2 blocks 5-7; `[]` means no hops. Numbers only: nothing here may know a model.
"""

import itertools
from collections.abc import Sequence

from mpsl.errors import UsageError


def check_cuts(cuts: Sequence[int], blocks: int) -> None:
    """Raise UsageError unless `cuts` fit a model of `blocks` blocks: none, or at least two, rising, in 1..blocks-1."""
    if not cuts:
        return
    shown = f"cuts = {list(cuts)}"
    if len(cuts) == 1:
        raise UsageError(f"{shown}: one cut makes no hop; N hops need N + 1 cuts, and an empty list means no hops")
    for left, right in itertools.pairwise(cuts):
        if left >= right:
            raise UsageError(f"{shown}: {left} stands before {right}, but cuts must rise strictly: no part is empty")
    if cuts[0] < 1 or cuts[-1] > blocks - 1:
        raise UsageError(
            f"{shown}: the model has {blocks} blocks and the device keeps at least the first and the last, "
            f"so cuts lie within 1 and {blocks - 1}"
        )


def even_cuts(costs: Sequence[float], hops: int) -> list[int]:
    """Return the cuts that leave the device the first and the last block and make the costliest hop cheapest.

    `costs` holds one number for each block, not negative, in any unit. Exact; among equals the earliest cuts win.
    Raises UsageError when there are fewer blocks between the first and the last than hops.
    """
    if hops == 0:
        return []
    first, last = 1, len(costs) - 1
    if hops < 0 or last - first < hops:
        raise UsageError(
            f"{hops} hops need at least {max(hops, 0) + 2} blocks, because the device keeps the first and the last; "
            f"the model has {len(costs)}"
        )
    # best[end]: (cost of the costliest part, its cuts) over the ways to cut blocks first..end into the parts so far
    best = {end: (sum(costs[first:end]), [first, end]) for end in range(first + 1, last + 1)}
    for part in range(2, hops + 1):
        best = {
            end: min(
                (max(best[begin][0], sum(costs[begin:end])), [*best[begin][1], end])
                for begin in range(first + part - 1, end)
            )
            for end in range(first + part, last + 1)
        }
    return best[last][1]
