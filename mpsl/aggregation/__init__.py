"""How the parts of many devices become one: a rule a file, found by the job's `algorithm`.

A rule works on numpy arrays in place, a tensor at a time, so that every seat and the orchestrator fold alike.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpsl.registry import Registry

Array = NDArray[Any]


class Aggregation(Protocol):
    """One rule. `total` is the running sum of one tensor, changed in place."""

    def empty(self, like: Array) -> Array:
        """The sum before the first device."""

    def fold(self, total: Array, weights: Array, samples: int) -> None:
        """Add one device's tensor; devices come in the order of their numbers."""

    def merge(self, total: Array, other: Array) -> None:
        """Add another replica's sum; replicas come in their order."""

    def close(self, total: Array, samples: int) -> None:
        """Turn the sum over `samples` training samples into the committed tensor."""


aggregations: Registry[Aggregation] = Registry("algorithm", "mpsl.aggregation")


def is_float(array: Array) -> bool:
    """Whether a tensor is averaged; integer buffers are not."""
    return bool(np.issubdtype(array.dtype, np.floating))
