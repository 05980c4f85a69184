"""What every codec is: float32 values to planes of bytes, and back with every length checked first.

The bytes to decode come from a network. `decode` compares them with what the shape demands before it allocates, and
whatever they are it may raise only WireError. The caller holds the shape against its own limits before that.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from mpsl.errors import UsageError, WireError
from mpsl.messages import Tensor
from mpsl.registry import Registry

Floats = NDArray[np.float32]
Plane = memoryview
"""One contiguous run of little-endian bytes of a message: a memoryview of format 'B'."""

Buffer = bytes | bytearray | memoryview
"""What may hold a received plane: any contiguous bytes."""

MAX_DIMENSIONS = 32
MAX_VALUES = 1 << 40
"""A shape beyond these is no tensor of ours; the bound keeps every product of sizes an ordinary integer."""


@dataclass(frozen=True)
class Codec(ABC):
    """One way to write float32 values; immutable and without state, so any thread may use it.

    `argument` is what follows the colon in a spec such as "topk:0.05"; None for the codecs that take none.
    """

    argument: str | None = None

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """True where decoding gives back the very same bits."""
    feedback: ClassVar[bool] = False
    """True where a device does well to send what is left out of a sample's gradient with that sample's next one."""

    def __post_init__(self) -> None:
        if self.argument is not None:
            raise UsageError(
                f"codec {self.name!r} takes no argument, but got {self.argument!r}; write just {self.name!r}"
            )

    @property
    def spec(self) -> str:
        """The text that `parse` turns into this codec."""
        return self.name if self.argument is None else f"{self.name}:{self.argument}"

    def encode(self, array: Floats) -> Tensor:
        """`array` (float32, C-contiguous, any shape) as it travels.

        With an exact codec the planes are the memory of the array itself: do not change it before they are sent.
        Raises ValueError for another dtype or layout, UsageError where the codec cannot carry NaN or infinity.
        """
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"{self.spec} encodes contiguous float32, got {array.dtype} with strides {array.strides}")
        planes = self._encode(array.astype("<f4", copy=False).reshape(-1))
        return Tensor(self.spec, "float32", array.shape, tuple(plane.view(np.uint8).data for plane in planes))

    def decode(self, shape: Sequence[int], planes: Sequence[Buffer], out: Floats | None = None) -> Floats:
        """The float32 array of `shape` that `planes` hold, in `out` (C-contiguous, of that shape) where it is given.

        Raises WireError for a shape that is none, and for planes of a wrong number, length or content. After an error
        `out` may hold anything.
        """
        self.check(shape, planes)
        target = self._target(shape, out)
        self._decode([memoryview(plane) for plane in planes], target.reshape(-1))
        return target

    def check(self, shape: Sequence[int], planes: Sequence[Buffer]) -> None:
        """Raise WireError where planes of these lengths cannot be a tensor of `shape`; allocates nothing."""
        values = values_in(shape)
        smallest, largest = self._min_sizes(values), self._max_sizes(values)
        lengths = tuple(_bytes_in(plane) for plane in planes)
        if len(lengths) != len(largest) or not all(
            low <= length <= high for low, length, high in zip(smallest, lengths, largest, strict=True)
        ):
            bounds = largest if smallest == largest else f"{smallest} to {largest}"
            raise WireError(f"{self.spec}: planes of {lengths} bytes, but shape {tuple(shape)} needs {bounds}")

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Bytes of each plane for a tensor of `shape`; None where they depend on the values. WireError as `decode`."""
        values = values_in(shape)
        largest = self._max_sizes(values)
        return largest if self._min_sizes(values) == largest else None

    def max_bytes(self, shape: Sequence[int]) -> int:
        """The most bytes that a tensor of `shape` can take, all planes together. WireError as `decode`."""
        return sum(self._max_sizes(values_in(shape)))

    def wire_bytes(self, shape: Sequence[int]) -> int:
        """The bytes that a tensor of `shape` is expected to take, all planes together; never more than `max_bytes`.

        Exact where `sizes` is known. Otherwise an upper estimate for activations and gradients as training makes them,
        at most a few per cent too high for the least compressible of them; docs/codecs.md has the measurements. All
        planning uses this figure. Raises WireError as `decode`.
        """
        values = values_in(shape)
        return min(self._expected_bytes(values), sum(self._max_sizes(values)))

    @abstractmethod
    def _max_sizes(self, values: int) -> tuple[int, ...]:
        """The largest size of each plane, in bytes, for so many values."""

    def _min_sizes(self, values: int) -> tuple[int, ...]:
        """The smallest size of each plane; the same as the largest unless a codec says otherwise."""
        return self._max_sizes(values)

    def _expected_bytes(self, values: int) -> int:
        """What `wire_bytes` says; a codec whose sizes are far below the largest for usual tensors overrides it."""
        return sum(self._max_sizes(values))

    @abstractmethod
    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        """The planes, each a contiguous one-dimensional little-endian array."""

    @abstractmethod
    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        """Fill `flat` from planes whose lengths are right; WireError where their content is not."""

    def _target(self, shape: Sequence[int], out: Floats | None) -> Floats:
        if out is None:
            return np.empty(tuple(shape), np.float32)
        if out.dtype != np.float32 or out.shape != tuple(shape) or not out.flags.c_contiguous:
            raise ValueError(f"{self.spec}: cannot decode shape {tuple(shape)} into {out.dtype} of shape {out.shape}")
        return out


def values_in(shape: Sequence[int]) -> int:
    """How many values a tensor of `shape` has; raises WireError where `shape` is no shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"a shape of {len(shape)} dimensions; {MAX_DIMENSIONS} is the limit")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f"{tuple(shape)!r:.200} is no shape: it must hold whole numbers from 0 on")
    if math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise WireError(f"shape {tuple(shape)!r:.200} is beyond the limit of {MAX_VALUES} values")
    return math.prod(shape)


codecs: Registry[type[Codec]] = Registry("codec", "mpsl.codecs", "mpsl.codecs")
"""All codecs by name: fp32, fp16, bf16, …"""


def parse(spec: str) -> Codec:
    """The codec that `spec` names ("bf16", "topk:0.05"); raises UsageError with the nearest name, or with the range."""
    name, colon, argument = spec.partition(":")
    return codecs.get(name)(argument if colon else None)


def not_finite(spec: str) -> UsageError:
    """The error of a codec that was given NaN or infinity and has no way to write them."""
    return UsageError(
        f"codec {spec!r} cannot carry NaN or infinity, and this tensor has some: the training has probably diverged; "
        "lower the learning rate, or use bf16 or fp32 to let it go on"
    )


def _bytes_in(plane: Buffer) -> int:
    view = memoryview(plane)
    if not view.c_contiguous:
        raise ValueError("a plane must be contiguous")
    return view.nbytes
