"""One byte a value and a scale for every 256: a quarter of fp32's bytes."""

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Floats, codecs
from mpsl.codecs.grouped import Grouped


@codecs.register("int8")
class Integer8(Grouped):
    """1 + 1/64 bytes a value; |x − x̂| ≤ max|group| / 254 over groups of 256, as `Grouped` states it."""

    name = "int8"
    levels = 127
    group = 256

    def _packed_bytes(self, values: int) -> int:
        return values

    def _pack(self, integers: NDArray[np.uint32], packed: NDArray[np.uint8]) -> None:
        packed[:] = integers.view(np.uint8)[::4][: packed.size]

    def _unpack(self, packed: NDArray[np.uint8], values: Floats) -> None:
        values[:] = np.maximum(packed.view(np.int8), -self.levels)
