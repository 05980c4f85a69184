"""IEEE half precision: 11 bits of precision in a narrow range, the usual choice for activations."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Codec, Floats, Plane, codecs
from mpsl.codecs.tiles import TILE, tiles

LARGEST = np.float32(65504)
"""The largest finite half."""

INFINITE = np.float32(65536)
"""The value of the exponent of infinity and NaN when it is read as an ordinary one."""

REBIAS = np.float32(2.0**112)
"""Between the exponent biases of float32, 127, and of a half, 15."""


@codecs.register("fp16")
class Float16(Codec):
    """2 bytes a value, rounded to nearest, ties to even.

    |x − x̂| ≤ 2⁻¹¹·|x| for 2⁻¹⁴ ≤ |x| ≤ 65504, and ≤ 2⁻²⁵ below: values below 3e-8 become zero, so use bf16 for
    gradients that small. Finite values beyond ±65504 become ±65504. Infinities and NaN are kept, so that a diverged
    training looks the same as with fp32.
    """

    name = "fp16"

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        return (2 * values,)

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        return (to_half(flat),)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        from_half(np.frombuffer(planes[0], "<u2"), flat)


def to_half(flat: Floats) -> NDArray[np.uint16]:
    """Return the half-precision bits of one-dimensional little-endian float32 values.

    numpy's own conversion gives the same bits, at half the speed, and at a fortieth for values below 2⁻¹⁴.
    """
    result = np.empty(flat.size, "<u2")
    size = min(flat.size, TILE)
    rounded, exponents, shifted = np.empty(size, "<f4"), np.empty(size, "<u4"), np.empty(size, "<u4")
    for part in tiles(flat.size):
        values = flat[part]
        size = values.size
        magnitudes, exponent, high = rounded[:size], exponents[:size], shifted[:size]
        np.abs(values, out=magnitudes)
        if not magnitudes.max() <= LARGEST:  # also true for NaN
            clipped = np.where(np.isinf(values), values, np.clip(values, -LARGEST, LARGEST))
            result[part] = clipped.astype("<f2").view("<u2")
            continue
        bits, sum_bits = values.view("<u4"), magnitudes.view("<u4")
        # The exponent e of each value, at least that of 2⁻¹⁴: below it, halves are evenly spaced.
        np.bitwise_and(bits, 0x7F800000, out=exponent)
        np.maximum(exponent, 0x38800000, out=exponent)
        np.right_shift(exponent, 13, out=high)
        # Adding 2^(e+13) makes the processor round to 11 bits, ties to even, and leaves these bits, the leading one
        # included, lowest in the sum. The 0x3C00 there takes the bias of the exponent, 127 - 14, off modulo 2¹⁶.
        np.add(exponent, (13 << 23) + 0x3C00, out=exponent)
        np.add(magnitudes, exponent.view("<f4"), out=magnitudes)
        np.add(sum_bits, high, out=sum_bits)
        np.right_shift(bits, 16, out=high)
        np.bitwise_and(high, 0x8000, out=high)
        np.bitwise_or(sum_bits, high, out=sum_bits)
        result[part] = sum_bits
    return result


def from_half(bits: NDArray[np.uint16], flat: Floats) -> None:
    """Write the values of the half-precision `bits` into `flat`; exact."""
    wide = flat.view("<i4")
    for part in tiles(flat.size):
        values, raw = flat[part], wide[part]
        # Exponent and mantissa move to where float32 has them, the sign stays on top; the factor puts the bias right.
        raw[:] = bits[part].view("<i2")
        np.left_shift(raw, 13, out=raw)
        np.bitwise_and(raw, ~0x70000000, out=raw)
        np.multiply(values, REBIAS, out=values)
        if values.max() >= INFINITE or values.min() <= -INFINITE:
            values[:] = bits[part].view("<f2")
