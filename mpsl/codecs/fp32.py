"""The unchanged values: exact, without a copy on either side, and the default everywhere."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mpsl.codecs.codec import Buffer, Codec, Floats, Plane, codecs


@codecs.register("fp32")
class Float32(Codec):
    """4 bytes a value; every bit arrives, NaN payloads and the sign of zero included.

    Encoding returns the array's own memory. Decoding without `out` returns a view of the received bytes, read-only if
    they are; with `out` it copies.
    """

    name = "fp32"
    exact = True

    def decode(self, shape: Sequence[int], planes: Sequence[Buffer], out: Floats | None = None) -> Floats:
        """A view of the bytes, or `out` filled with them; raises WireError as `Codec.decode`."""
        if out is not None:
            return super().decode(shape, planes, out)
        self.check(shape, planes)
        return np.frombuffer(planes[0], "<f4").reshape(tuple(shape))

    def _max_sizes(self, values: int) -> tuple[int, ...]:
        return (4 * values,)

    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        return (flat,)

    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        flat[:] = np.frombuffer(planes[0], "<f4")
