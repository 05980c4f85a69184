"""FedAvg of every part (McMahan et al. 2017, algorithm 1), as SplitFed V1 applies it to the parts of a split model.

w = (Σ n_k · w_k) / Σ n_k in fp32. Each product is rounded and then added, in the order of acceptance; the sum is
divided once at the close. Floating-point buffers (BatchNorm's running statistics) are averaged like parameters. For
integer buffers the maximum is taken.
"""

import numpy as np

from mpsl.aggregation import Array, aggregations, is_float

FOLD_ELEMENTS = 1 << 18
"""Elements that are folded at a time, so the product stays in the cache and needs little memory."""


class SplitFedV1:
    """The rule `splitfed-v1`."""

    def empty(self, like: Array) -> Array:
        """Return zeros, or the smallest integers for an integer tensor."""
        return np.zeros_like(like) if is_float(like) else np.full_like(like, np.iinfo(like.dtype).min)

    def fold(self, total: Array, weights: Array, samples: int) -> None:
        """total += samples · weights, the product rounded to fp32 first (no fused multiply-add)."""
        if not is_float(total):
            np.maximum(total, weights, out=total)
            return
        into, taken, factor = total.reshape(-1), weights.reshape(-1), total.dtype.type(samples)
        for start in range(0, into.size, FOLD_ELEMENTS):
            piece = into[start : start + FOLD_ELEMENTS]
            piece += taken[start : start + FOLD_ELEMENTS] * factor

    def merge(self, total: Array, other: Array) -> None:
        """total += other."""
        if is_float(total):
            total += other
        else:
            np.maximum(total, other, out=total)

    def close(self, total: Array, samples: int) -> None:
        """total /= samples; integers stay as they are."""
        if is_float(total):
            total /= total.dtype.type(samples)


aggregations.register("splitfed-v1")(SplitFedV1())
