"""Only the largest values: "topk:0.05" sends the largest twentieth; the others become zeros.

It is made for gradients, which are dominated by few values. Activations lose too much by it.
"""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.bf16 import from_bf16, to_bf16
from mpsl.codecs.codec import Codec, Floats, Plane, codecs, not_finite
from mpsl.errors import UsageError, WireError

_DECIMAL = re.compile(r"(\d{1,9}(\.\d{0,9})?|\.\d{1,9})\Z", re.ASCII)


class Layout(NamedTuple):
    """How the positions of k of n values are written: as a bitmap (`width` 0), or as gaps in words of `width` bytes."""

    width: int
    least: int
    most: int


@codecs.register("topk")
class TopK(Codec):
    """Keeps the k = ⌈fraction · n⌉ largest magnitudes of the whole tensor, the first among equals; fraction in (0, 1].

    ‖x − x̂‖² ≤ (1 − k/n · (1 − 2⁻¹⁶)) · ‖x‖²: kept values are rounded to bf16, which costs the 2⁻¹⁶, and those below
    2⁻¹²⁶ up to 2⁻¹³⁴ each. Planes: the kept values in order, 2 bytes each; then their positions, in the form with
    the fewest bytes for this k and n: a bitmap of n bits, or the gaps in words of 1 or 2 bytes. NaN and infinity
    cannot be carried: `encode` raises UsageError.
    """

    name = "topk"
    feedback = True

    def __post_init__(self) -> None:
        if self.argument is None or not _DECIMAL.match(self.argument) or not 0 < Fraction(self.argument) <= 1:
            given = "nothing" if self.argument is None else repr(self.argument)
            raise UsageError(
                f"codec 'topk' needs the fraction of values to keep, above 0, at most 1, as in 'topk:0.05'; got {given}"
            )

    def kept(self, values: int) -> int:
        """Return how many of `count` values are sent."""
        return math.ceil(Fraction(self.argument or 0) * values)

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        return (2 * self.kept(values), self._layout(values).most)

    def _min_sizes(self, values: int) -> tuple[int, ...]:
        return (2 * self.kept(values), self._layout(values).least)

    def _layout(self, values: int) -> Layout:
        """Return the form with the smallest upper bound. Both ends find the same one, so no message names it."""
        kept, bitmap = self.kept(values), -(-values // 8)
        gaps = [Layout(width, width * kept, width * (kept + values // _escape(width))) for width in (1, 2)]
        return min(Layout(0, bitmap, bitmap), *gaps, key=lambda layout: layout.most)

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        positions = self._largest(flat)
        width = self._layout(flat.size).width
        if width:
            return (to_bf16(flat[positions]), _gaps(positions, width))
        mask = np.zeros(flat.size, np.bool_)
        mask[positions] = True
        return (to_bf16(flat[positions]), np.packbits(mask, bitorder="little"))

    def _largest(self, flat: Floats) -> NDArray[np.int64]:
        """Return the positions of the values to keep, ascending."""
        kept = self.kept(flat.size)
        if not kept:
            return np.empty(0, np.int64)
        magnitudes = np.abs(flat)
        top = np.partition(magnitudes, flat.size - kept)[flat.size - kept :]
        if not np.isfinite(top).all():  # both sort to the end
            raise not_finite(self.spec)
        positions = np.flatnonzero(magnitudes >= top[0])
        ties = np.flatnonzero(magnitudes[positions] == top[0])
        surplus = positions.size - kept
        return np.delete(positions, ties[ties.size - surplus :])

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        kept, width = self.kept(flat.size), self._layout(flat.size).width
        values = np.empty(kept, np.float32)
        from_bf16(np.frombuffer(planes[0], "<u2"), values)
        if not np.isfinite(values).all():
            raise WireError(f"{self.spec}: a value is infinite or NaN")
        if width:
            positions = self._positions(planes[1], kept, width)
        else:
            positions = np.flatnonzero(np.unpackbits(np.frombuffer(planes[1], np.uint8), bitorder="little"))
        if positions.size != kept or (kept and positions[-1] >= flat.size):
            raise WireError(
                f"{self.spec}: {positions.size} positions, not {kept}, or one beyond the {flat.size} values"
            )
        flat[:] = 0
        flat[positions] = values

    def _positions(self, plane: Plane, kept: int, width: int) -> NDArray[np.int64]:
        """Return the positions that the gaps in `plane` describe; there may be too many, and beyond the end."""
        if plane.nbytes % width:
            raise WireError(f"{self.spec}: {plane.nbytes} bytes of positions are not whole words of {width}")
        words = np.frombuffer(plane, f"<u{width}")
        last = words != _escape(width)
        if kept and not last[-1]:
            raise WireError(f"{self.spec}: the positions end in the middle of a gap")
        positions: NDArray[np.int64] = (np.cumsum(words + last.astype(np.int64)) - 1)[last]
        return positions


def _escape(width: int) -> int:
    """Return the word that advances by its value and continues the gap in the next word."""
    return (1 << (8 * width)) - 1


def _gaps(positions: NDArray[np.int64], width: int) -> NDArray[np.generic]:
    """Return the gap before each position as words: escapes for whole multiples, then the remainder."""
    escape = _escape(width)
    gaps = np.diff(positions, prepend=-1) - 1
    ends = np.cumsum(gaps // escape + 1) - 1
    words = np.full(ends[-1] + 1 if ends.size else 0, escape, f"<u{width}")
    words[ends] = gaps % escape
    return words
