"""IEEE half precision: 11 bits of precision in a narrow range, the usual choice for activations."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Codec, Floats, Plane, codecs
from mpsl.codecs.pieces import pieces

LARGEST = np.float32(65504)
"""The largest finite half."""


@codecs.register("fp16")
class Float16(Codec):
    """2 bytes a value, rounded to nearest, ties to even.

    |x − x̂| ≤ 2⁻¹¹·|x| for 2⁻¹⁴ ≤ |x| ≤ 65504, and ≤ 2⁻²⁵ below: what is smaller than 3e-8 becomes zero, so take bf16
    for gradients that small. Finite values beyond ±65504 become ±65504. Infinities and NaN stay what they are, so that
    a training that has diverged looks the same as with fp32.
    """

    name = "fp16"

    def _sizes(self, values: int) -> tuple[int, ...]:
        return (2 * values,)

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        halves = np.empty(flat.size, "<f2")
        for part in pieces(flat.size):
            values = flat[part]
            if not (values.max() <= LARGEST and values.min() >= -LARGEST):  # also true for NaN
                values = np.where(np.isinf(values), values, np.clip(values, -LARGEST, LARGEST))
            halves[part] = values
        return (halves,)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        flat[:] = np.frombuffer(planes[0], "<f2")
