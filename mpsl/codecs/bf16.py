"""The upper half of a float32: the whole range at 8 bits of precision.

It is the cheapest lossy codec, and the most robust: no finite value becomes infinite, and hardly any becomes zero.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Codec, Floats, Plane, codecs
from mpsl.codecs.tiles import TILE, tiles

LARGEST = np.array(0x7F7F0000, "<u4").view("<f4")[()]
"""The largest finite bf16, 3.3895e38."""


@codecs.register("bf16")
class BrainFloat16(Codec):
    """2 bytes a value, rounded to nearest, ties to even.

    |x − x̂| ≤ 2⁻⁸·|x| for every finite x of at least 2⁻¹²⁶, and ≤ 2⁻¹³⁴ below. Finite values beyond 3.3895e38
    become that value, never infinity. Infinities and NaN are kept (as the quiet NaN), so that a diverged training looks
    the same as with fp32.
    """

    name = "bf16"

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        return (2 * values,)

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        return (to_bf16(flat),)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        from_bf16(np.frombuffer(planes[0], "<u2"), flat)


def to_bf16(flat: Floats) -> NDArray[np.uint16]:
    """Return the bf16 bits of one-dimensional little-endian float32 values."""
    result = np.empty(flat.size, "<u2")
    scratch = np.empty(min(flat.size, TILE), "<u4")
    for part in tiles(flat.size):
        values = flat[part]
        if not (values.max() <= LARGEST and values.min() >= -LARGEST):  # also true for NaN
            values = _without_surprises(values)
        bits = values.view("<u4")
        rounded = scratch[: bits.size]
        # Half a unit of the upper half, minus one if that half is even: the carry then rounds ties to even.
        np.right_shift(bits, 16, out=rounded)
        np.bitwise_and(rounded, 1, out=rounded)
        np.add(rounded, 0x7FFF, out=rounded)
        np.add(rounded, bits, out=rounded)
        np.right_shift(rounded, 16, out=rounded)
        result[part] = rounded
    return result


def from_bf16(bits: NDArray[np.uint16], flat: Floats) -> None:
    """Write the values of the bf16 `bits` into `flat`."""
    wide = flat.view("<u4")
    for part in tiles(flat.size):
        wide[part] = bits[part]
        wide[part] <<= 16


def _without_surprises(values: Floats) -> Floats:
    """Clip finite values to the range, and make every NaN quiet, so that rounding cannot turn it into infinity."""
    clipped = np.where(np.isinf(values), values, np.clip(values, -LARGEST, LARGEST))
    clipped[np.isnan(values)] = np.nan
    return clipped
