"""Small integers with one scale for each group of values: the base of int8 and int4.

A group is a run of consecutive values of the flattened tensor. Its scale follows its own largest magnitude, so one
large value reduces the precision of its group only.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Codec, Floats, Plane, not_finite
from mpsl.codecs.tiles import TILE, tiles
from mpsl.errors import WireError

SMALLEST_SCALE = np.finfo(np.float32).smallest_normal
"""A group that needs a smaller scale is sent as zeros: its inverse would overflow."""

TO_INTEGER = np.float32(1.5 * 2**23)
"""Added to a small float, it rounds to the integer, ties to even, in the lowest bits of the sum."""


class Grouped(Codec):
    """Integers from −`levels` to `levels`, times a float32 scale for each `group` values; planes: scales, integers.

    With m the largest magnitude of a group, scale = m / levels and |x − x̂| ≤ scale / 2, except for a rounding error of
    2⁻¹⁵ scale, and for groups with m < levels · 2⁻¹²⁶, which become zeros. Zero stays zero. NaN and infinity cannot be
    carried: `encode` raises UsageError.
    """

    levels: ClassVar[int]
    group: ClassVar[int]
    """Values that share a scale; divides TILE."""

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        return (4 * -(-values // self.group), self._packed_bytes(values))

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        scales = np.empty(-(-flat.size // self.group), "<f4")
        packed = np.empty(self._packed_bytes(flat.size), np.uint8)
        scratch = np.empty(min(scales.size * self.group, TILE), "<f4")
        for part in tiles(flat.size):
            size = part.stop - part.start
            rows = scratch[: -(-size // self.group) * self.group].reshape(-1, self.group)
            scale = scales[part.start // self.group :][: len(rows)]
            self._measure(flat[part], rows, scale)
            np.add(rows, TO_INTEGER, out=rows)
            self._pack(rows.reshape(-1).view("<u4"), packed[self._packed(part)])
        return (scales, packed)

    def _measure(self, values: Floats, rows: Floats, scale: Floats) -> None:
        """Fill `scale` from `values`, and `rows` with the values divided by it, a short last row padded with zeros."""
        padded = rows.reshape(-1)
        np.abs(values, out=padded[: values.size])
        padded[values.size :] = 0
        rows.max(axis=1, out=scale)
        if not np.isfinite(scale).all():
            raise not_finite(self.spec)
        scale /= self.levels
        np.minimum(scale, self._largest_scale(), out=scale)
        scale[scale < SMALLEST_SCALE] = 0
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        whole = values.size // self.group
        body = values[: whole * self.group].reshape(-1, self.group)
        np.multiply(body, inverse[:whole, None], out=rows[:whole])
        if whole < len(rows):
            np.multiply(values[whole * self.group :], inverse[whole], out=padded[whole * self.group : values.size])

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        scales, packed = np.frombuffer(planes[0], "<f4"), np.frombuffer(planes[1], np.uint8)
        if not ((scales >= 0) & (scales <= self._largest_scale())).all():
            raise WireError(f"{self.spec}: a scale is negative, infinite or NaN")
        for part in tiles(flat.size):
            values = flat[part]
            self._unpack(packed[self._packed(part)], values)
            scale = scales[part.start // self.group :]
            whole = values.size // self.group
            rows = values[: whole * self.group].reshape(-1, self.group)
            np.multiply(rows, scale[:whole, None], out=rows)
            if values.size % self.group:
                rest = values[whole * self.group :]
                np.multiply(rest, scale[whole], out=rest)

    def _packed(self, part: slice) -> slice:
        """Return the bytes that hold the integers of the values in `part`."""
        return slice(self._packed_bytes(part.start), self._packed_bytes(part.stop))

    def _largest_scale(self) -> np.float32:
        """The scale whose multiples up to `levels` are all finite."""
        return np.float32(np.nextafter(np.finfo(np.float32).max / np.float32(self.levels), np.float32(0)))

    @abstractmethod
    def _packed_bytes(self, values: int) -> int:
        """Return the bytes of `count` integers."""

    @abstractmethod
    def _pack(self, integers: NDArray[np.uint32], packed: NDArray[np.uint8]) -> None:
        """Write integers, each in the lowest bits of its word as two's complement, into `packed`; may change both.

        There are at least as many integers as `packed` holds, and an even number.
        """

    @abstractmethod
    def _unpack(self, packed: NDArray[np.uint8], values: Floats) -> None:
        """Write the integers of `packed` into `values` as floats, never one beyond ±levels."""
