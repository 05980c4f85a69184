"""The base of all codecs: float32 values to planes of bytes, and back after a check of every length.

The bytes to decode come from a network. `decode` compares their number with the shape before it allocates, and raises
only WireError, whatever they are. The caller has compared the shape with its own limits before.
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
"""A received plane: any contiguous bytes."""

MAX_DIMENSIONS = 32
MAX_VALUES = 1 << 40
"""Limits of a shape. They keep every product of sizes an ordinary integer."""


@dataclass(frozen=True)
class Codec(ABC):
    """One way to write float32 values; immutable and without state, so any thread may use it.

    `argument` is the text after the colon in a spec such as "topk:0.05"; None for codecs without an argument.
    """

    argument: str | None = None

    name: ClassVar[str]
    exact: ClassVar[bool] = False
    """Whether decoding returns exactly the same bits."""
    feedback: ClassVar[bool] = False
    """Whether a device should add the lost part of a sample's gradient to that sample's next one."""

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
        """Encode `array` (float32, C-contiguous, any shape).

        With an exact codec the planes are the memory of the array itself: do not change it before they are sent.
        Raises ValueError for another dtype or layout, UsageError for NaN or infinity that the codec cannot carry.
        """
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"{self.spec} encodes contiguous float32, got {array.dtype} with strides {array.strides}")
        planes = self._encode(array.astype("<f4", copy=False).reshape(-1))
        return Tensor(self.spec, "float32", array.shape, tuple(plane.view(np.uint8).data for plane in planes))

    def decode(self, shape: Sequence[int], planes: Sequence[Buffer], out: Floats | None = None) -> Floats:
        """Decode `planes` to a float32 array of `shape`, in `out` (C-contiguous, of that shape) if it is given.

        Raises WireError for an invalid shape, and for planes of a wrong number, length or content. After an error,
        `out` may hold anything.
        """
        self.check(shape, planes)
        target = self._target(shape, out)
        self._decode([memoryview(plane) for plane in planes], target.reshape(-1))
        return target

    def check(self, shape: Sequence[int], planes: Sequence[Buffer]) -> None:
        """Raise WireError if planes of these lengths cannot be a tensor of `shape`. Allocates nothing."""
        values = values_in(shape)
        smallest, largest = self._min_sizes(values), self._max_sizes(values)
        lengths = tuple(_bytes_in(plane) for plane in planes)
        if len(lengths) != len(largest) or not all(
            low <= length <= high for low, length, high in zip(smallest, lengths, largest, strict=True)
        ):
            bounds = largest if smallest == largest else f"{smallest} to {largest}"
            raise WireError(f"{self.spec}: planes of {lengths} bytes, but shape {tuple(shape)} needs {bounds}")

    def sizes(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the bytes of each plane of a tensor of `shape`, or None if they depend on values. Raises WireError."""
        values = values_in(shape)
        largest = self._max_sizes(values)
        return largest if self._min_sizes(values) == largest else None

    def max_bytes(self, shape: Sequence[int]) -> int:
        """Return the maximum bytes of a tensor of `shape`, all planes together. Raises WireError as `decode`."""
        return sum(self._max_sizes(values_in(shape)))

    def wire_bytes(self, shape: Sequence[int]) -> int:
        """Return the expected bytes of a tensor of `shape`, all planes together; never more than `max_bytes`.

        Exact if `sizes` is known. Otherwise it is an upper estimate for activations and gradients in training, at most
        a few per cent too high for the least compressible of them; docs/codecs.md has the measurements. All planning
        uses this figure. Raises WireError as `decode`.
        """
        values = values_in(shape)
        return min(self._expected_bytes(values), sum(self._max_sizes(values)))

    @abstractmethod
    def _max_sizes(self, values: int) -> tuple[int, ...]:
        """Return the maximum size of each plane, in bytes, for `count` values."""

    def _min_sizes(self, values: int) -> tuple[int, ...]:
        """Return the minimum size of each plane; by default the maximum."""
        return self._max_sizes(values)

    def _expected_bytes(self, values: int) -> int:
        """Return the result of `wire_bytes`. A codec whose usual sizes are far below the maximum overrides it."""
        return sum(self._max_sizes(values))

    @abstractmethod
    def _encode(self, flat: Floats) -> Sequence[NDArray[np.generic]]:
        """Return the planes, each a contiguous one-dimensional little-endian array."""

    @abstractmethod
    def _decode(self, planes: Sequence[Plane], flat: Floats) -> None:
        """Fill `flat` from planes of valid lengths. Raises WireError if their content is not valid."""

    def _target(self, shape: Sequence[int], out: Floats | None) -> Floats:
        if out is None:
            return np.empty(tuple(shape), np.float32)
        if out.dtype != np.float32 or out.shape != tuple(shape) or not out.flags.c_contiguous:
            raise ValueError(f"{self.spec}: cannot decode shape {tuple(shape)} into {out.dtype} of shape {out.shape}")
        return out


def values_in(shape: Sequence[int]) -> int:
    """Return the number of values of a tensor of `shape`. Raises WireError for an invalid shape."""
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"a shape of {len(shape)} dimensions; {MAX_DIMENSIONS} is the limit")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise WireError(f"{tuple(shape)!r:.200} is not a shape: it must hold whole numbers of at least 0")
    if math.prod(max(size, 1) for size in shape) > MAX_VALUES:
        raise WireError(f"shape {tuple(shape)!r:.200} is beyond the limit of {MAX_VALUES} values")
    return math.prod(shape)


codecs: Registry[type[Codec]] = Registry("codec", "mpsl.codecs", "mpsl.codecs")
"""All codecs by name: fp32, fp16, bf16, …"""


def parse(spec: str) -> Codec:
    """Return the codec of `spec` ("bf16", "topk:0.05"). Raises UsageError with the nearest name, or with the range."""
    name, colon, argument = spec.partition(":")
    return codecs.get(name)(argument if colon else None)


def not_finite(spec: str) -> UsageError:
    """Return the error of a codec that cannot encode NaN or infinity."""
    return UsageError(
        f"codec {spec!r} cannot carry NaN or infinity, and this tensor has some: the training has probably diverged; "
        "lower the learning rate, or use bf16 or fp32, which can carry them"
    )


def _bytes_in(plane: Buffer) -> int:
    view = memoryview(plane)
    if not view.c_contiguous:
        raise ValueError("a plane must be contiguous")
    return view.nbytes
