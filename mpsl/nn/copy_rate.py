"""Measures how fast a part is copied and folded: a node does both once for each device and round."""

import copy
import statistics

from mpsl.aggregation import Aggregation
from mpsl.nn.block_times import Clock
from mpsl.nn.part import Part, allocated, trained_tensors
from mpsl.nn.weights import arrays_of, weights_bytes

REPEATS = 7


def copied_bytes_per_s(part: Part, bare: Part, rule: Aggregation, clock: Clock) -> float:
    """Return bytes per second. The part's bytes count twice, once for the copy and once for the fold.

    It is the median of REPEATS runs after one that does not count. `bare` is the same part on the meta device.
    """
    committed = arrays_of(trained_tensors(part))
    totals = [rule.empty(array) for array in committed]
    seconds = []
    for _ in range(REPEATS + 1):
        started = clock()
        fresh = arrays_of(trained_tensors(allocated(copy.deepcopy(bare))))
        for empty, array in zip(fresh, committed, strict=True):
            empty[...] = array
        for total, array in zip(totals, fresh, strict=True):
            rule.fold(total, array, 1)
        seconds.append(clock() - started)
    return 2 * weights_bytes(committed) / statistics.median(seconds[1:])
