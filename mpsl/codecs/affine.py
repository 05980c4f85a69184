"""Two, three or four bits a value between the smallest and the largest of its group: "affine:3".

It is made for activations after a ReLU, which are never negative. int4 spends half of its levels on values that do not
occur there, so three bits of this codec have the same resolution as four of int4, and zeros stay zeros.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.bf16 import from_bf16
from mpsl.codecs.codec import Codec, Floats, Plane, codecs, not_finite
from mpsl.codecs.tiles import TILE, tiles
from mpsl.errors import UsageError, WireError

GROUP = 128
"""Values that share a lowest value and a step; divides TILE."""

TO_INTEGER = np.float32(2**23)
"""Added to a float of at least 0, it rounds to the integer, ties to even, in the lowest bits of the sum."""

MAX_RANGE = np.array(0x7F000000, "<u4").view("<f4")[()]
"""The maximum range of a group, 1.7e38: its lowest value rounded down and its step rounded up are still finite."""


@codecs.register("affine")
class Affine(Codec):
    """With l and h the smallest and largest value of a group, x̂ = low + step · (0 … 2^bits − 1).

    low is l rounded down to bf16, so low ≥ l − 2⁻⁷·|l| − 2⁻¹³³, and step is (h − low) / (2^bits − 1), at least 2⁻¹²⁶,
    rounded up to bf16, so at most 2⁻⁷ larger. |x − x̂| ≤ step / 2, except for rounding errors of
    2⁻¹⁵ step + 2⁻²²·max(|l|, |h|).
    If l = 0, zeros stay zeros. `bits` is 2, 3 or 4, and every group takes 4 bytes more. Planes: lows, steps (both
    bf16), integers, eight of them in `bits` bytes, the first in the lowest bits. NaN, infinity, a group wider than
    1.7e38, and one that ends at the largest float32, cannot be carried: `encode` raises UsageError.
    """

    name = "affine"

    def __post_init__(self) -> None:
        if self.argument not in ("2", "3", "4"):
            given = "nothing" if self.argument is None else repr(self.argument)
            raise UsageError(
                f"codec {self.name!r} needs the bits of a value, 2, 3 or 4, as in '{self.name}:3'; got {given}"
            )

    @property
    def bits(self) -> int:
        """Bits of each value."""
        return int(self.argument or 0)

    @property
    def word(self) -> tuple[int, int]:
        """How integers are packed: how many together, and in how many bytes."""
        return 8, self.bits

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        groups = -(-values // GROUP)
        return (2 * groups, 2 * groups, self._packed_bytes(values))

    def _packed_bytes(self, values: int) -> int:
        together, nbytes = self.word
        return -(-values // together) * nbytes

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        groups = -(-flat.size // GROUP)
        lows, steps = np.empty(groups, "<u2"), np.empty(groups, "<u2")
        packed = np.empty(self._packed_bytes(flat.size), np.uint8)
        scratch = np.empty(min(groups * GROUP, TILE), "<f4")
        for part in tiles(flat.size):
            size = part.stop - part.start
            rows = scratch[: -(-size // GROUP) * GROUP].reshape(-1, GROUP)
            padded = rows.reshape(-1)
            padded[:size] = flat[part]
            padded[size:] = flat[part.stop - 1]  # changes no group's range
            where = slice(part.start // GROUP, part.start // GROUP + len(rows))
            low, step = self._measure(rows)
            lows[where], steps[where] = low.view("<u4") >> 16, step.view("<u4") >> 16
            np.subtract(rows, low[:, None], out=rows)
            np.multiply(rows, (1 / step)[:, None], out=rows)
            np.minimum(rows, np.float32(2**self.bits - 1), out=rows)
            np.add(rows, TO_INTEGER, out=rows)
            packed[self._packed(part)] = self._pack(padded.view("<u4"))[: self._packed_bytes(size)]
        return (lows, steps, packed)

    def _measure(self, rows: Floats) -> tuple[Floats, Floats]:
        """Return the lowest value and the step of each row, both in the upper half of their bits."""
        low, high = rows.min(axis=1), rows.max(axis=1)
        with np.errstate(over="ignore", invalid="ignore"):
            if not (high - low <= MAX_RANGE).all():  # also true for NaN
                raise self._too_large(rows)
            bits = low.view("<u4")
            bits += np.where(low < 0, np.uint32(0xFFFF), np.uint32(0))  # away from zero, which is down
            bits &= 0xFFFF0000
            step = np.maximum((high - low) / np.float32(2**self.bits - 1), np.finfo(np.float32).smallest_normal)
            bits = step.view("<u4")
            bits += 0xFFFF
            bits &= 0xFFFF0000
            last = low + step * np.float32(2**self.bits - 1)
        if not (np.isfinite(low) & np.isfinite(last)).all():
            raise self._too_large(rows)
        return low, step

    def _too_large(self, rows: Floats) -> UsageError:
        if not np.isfinite(rows).all():
            return not_finite(self.spec)
        return UsageError(
            f"codec {self.spec!r} carries groups of values up to 1.7e38 apart and below 3.3e38, and this tensor has "
            "larger ones: the training has probably diverged; lower the learning rate, or use fp32, which carries them"
        )

    def _pack(self, integers: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Pack whole groups of integers, each in the lowest bits of its word, into bytes."""
        together, nbytes = self.word
        lanes = integers.view(np.uint8)[::4].copy().view("<u8")
        # Neighbours move together, then pairs, then fours: a lane of `width` bits holds `held` of them.
        width, held = 8, self.bits
        while width < 8 * together:
            low = lanes & _each(2 * width, width)
            lanes >>= np.uint64(width)
            lanes &= _each(2 * width, width)
            lanes <<= np.uint64(held)
            lanes |= low
            width, held = 2 * width, 2 * held
        return lanes.view(np.uint8).reshape(-1, together)[:, :nbytes].reshape(-1)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        low, step = np.empty(len(planes[0]) // 2, "<f4"), np.empty(len(planes[1]) // 2, "<f4")
        from_bf16(np.frombuffer(planes[0], "<u2"), low)
        from_bf16(np.frombuffer(planes[1], "<u2"), step)
        packed = np.frombuffer(planes[2], np.uint8)
        with np.errstate(over="ignore", invalid="ignore"):
            high = low + step * np.float32(2**self.bits - 1)
        if not (np.isfinite(low) & np.isfinite(high) & (step >= 0)).all():
            raise WireError(f"{self.spec}: a step is negative, or a value is infinite or NaN")
        for part in tiles(flat.size):
            size = part.stop - part.start
            padded = np.zeros(-(-size // GROUP) * GROUP, "<f4")
            self._unpack(packed[self._packed(part)], padded)
            rows = padded.reshape(-1, GROUP)
            where = slice(part.start // GROUP, part.start // GROUP + len(rows))
            np.multiply(rows, step[where, None], out=rows)
            np.add(rows, low[where, None], out=rows)
            flat[part] = padded[:size]

    def _unpack(self, packed: NDArray[np.uint8], values: Floats) -> None:
        """Write the integers of `packed` as floats into `values`, in whole groups; the rest is zero."""
        together, nbytes = self.word
        spread = np.zeros((values.size // together, together), np.uint8)
        spread[: len(packed) // nbytes, :nbytes] = packed.reshape(-1, nbytes)
        lanes = spread.reshape(-1).view("<u8")
        width, held = 4 * together, self.bits * together // 2
        while width >= 8:
            low = lanes & _each(2 * width, held)
            lanes >>= np.uint64(held)
            lanes &= _each(2 * width, held)
            lanes <<= np.uint64(width)
            lanes |= low
            width, held = width // 2, held // 2
        values[:] = lanes.view(np.uint8)

    def _packed(self, part: slice) -> slice:
        """Return the bytes that hold the integers of the values in `part`."""
        return slice(self._packed_bytes(part.start), self._packed_bytes(part.stop))


def _each(lane: int, ones: int) -> np.uint64:
    """Return a mask with `held` ones in the lowest bits of each lane of `width` bits."""
    return np.uint64(sum(((1 << ones) - 1) << start for start in range(0, 64, lane)))
