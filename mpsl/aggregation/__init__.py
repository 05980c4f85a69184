"""Rules that aggregate the parts of many devices, one per file, found by the job's `algorithm`.

A rule works on numpy arrays in place, one tensor at a time, so every seat and the orchestrator fold in the same way.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpsl.registry import Registry

Array = NDArray[Any]


class Aggregation(Protocol):
    """One rule. `total` is the running sum of one tensor, changed in place."""

    def empty(self, like: Array) -> Array:
        """Return the sum before the first device."""

    def fold(self, total: Array, weights: Array, samples: int) -> None:
        """Add one device's tensor. Devices come in the order of their acceptance numbers."""

    def merge(self, total: Array, other: Array) -> None:
        """Add another replica's sum. Replicas come in order of their numbers."""

    def close(self, total: Array, samples: int) -> None:
        """Turn the sum over `samples` training samples into the committed tensor."""


aggregations: Registry[Aggregation] = Registry("algorithm", "mpsl.aggregation")


def is_float(array: Array) -> bool:
    """Whether a tensor is averaged; integer buffers are not."""
    return bool(np.issubdtype(array.dtype, np.floating))


MAX_WEIGHT_SAMPLES = 2.0**40
"""So many samples, all devices together, can be summed up without overflow."""


def is_foldable(array: Array) -> bool:
    """Whether a tensor can be added to a sum: it has no NaN, no infinity, and nothing that would make the sum infinite.

    A sum of n_k · w_k over at most `MAX_WEIGHT_SAMPLES` samples stays finite if every |w_k| is at most the largest
    number divided by that count. Then the mean is finite, too. Integers are not summed up.
    """
    if not is_float(array) or not array.size:
        return True
    largest = float(np.finfo(array.dtype).max) / (MAX_WEIGHT_SAMPLES if array.dtype.itemsize >= 4 else 1)
    # The minimum or maximum of an array with a NaN is NaN, which no comparison holds for.
    return bool(-largest <= array.min() and array.max() <= largest)
