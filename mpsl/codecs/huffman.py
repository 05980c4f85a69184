"""The integers of `affine` with fewer bits for frequent ones: "huffman:4".

Activations after a ReLU are half zeros, and gradients are concentrated around zero, so four bits a value shrink to less
than three, and two to less than one and a half. It loses no more than `affine`.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.affine import Affine
from mpsl.codecs.codec import Floats, Plane, codecs
from mpsl.errors import WireError

RAW_DEFLATE = -15
"""zlib's code for deflate without header and checksum."""

EXPECTED_BITS = {4: 3.66, 3: 2.59, 2: 1.55}
"""Bits of a coded integer: measured on normally distributed values, the least compressible of the usual tensors."""

CODE_TABLE_BYTES = 100
"""Approximate bytes of the code table of a deflate block.

A tensor has one for each 16 KiB of codes; the measured bits include it.
"""


@codecs.register("huffman")
class Huffman(Affine):
    """Error and refusals of `affine` with as many bits, never more than 4 bits a value (3 bits take a half byte).

    Planes: lows and steps as there; integers, 8 // bits in a byte, the first in the lowest bits, as a raw deflate
    stream of Huffman codes, or uncompressed if that is not larger; the length tells which.
    """

    name = "huffman"

    @property
    def word(self) -> tuple[int, int]:
        """The number of integers in a byte; each byte gets one code."""
        return 8 // self.bits, 1

    def _min_sizes(self, values: int) -> tuple[int, ...]:
        *ends, packed = self._max_sizes(values)
        return (*ends, min(1, packed))

    def _expected_bytes(self, values: int) -> int:
        lows, steps, _ = self._max_sizes(values)
        return lows + steps + math.ceil(values * EXPECTED_BITS[self.bits] / 8) + CODE_TABLE_BYTES

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        lows, steps, packed = super()._encode(flat)
        deflate = zlib.compressobj(1, zlib.DEFLATED, RAW_DEFLATE, strategy=zlib.Z_HUFFMAN_ONLY)
        stream = deflate.compress(packed.tobytes()) + deflate.flush()
        return (lows, steps, np.frombuffer(stream, np.uint8) if len(stream) < packed.nbytes else packed)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        lows, steps, packed = planes
        whole = self._packed_bytes(flat.size)
        if packed.nbytes < whole:
            packed = self._inflated(packed, whole)
        super()._decode((lows, steps, packed), flat)

    def _inflated(self, stream: Plane, whole: int) -> Plane:
        """Decompress the `whole` bytes of the stream, and never more."""
        inflate = zlib.decompressobj(RAW_DEFLATE)
        try:
            packed = inflate.decompress(stream, whole + 1)
        except zlib.error as error:
            raise WireError(f"{self.spec}: {error}") from None
        if len(packed) != whole or not inflate.eof or inflate.unused_data:
            raise WireError(f"{self.spec}: a stream of {stream.nbytes} bytes does not hold exactly {whole}")
        return memoryview(packed)
