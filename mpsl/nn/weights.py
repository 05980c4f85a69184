"""Weights as slices: read straight from, and written straight into, the tensors; a whole part is never assembled.

Slices between nodes and orchestrator are the tensors' own bytes. A device's may be coded (`WeightCodec`), where the job
says so; then both ends name the same codec for each tensor, and a slice in another is refused.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl.codecs import parse
from mpsl.errors import WireError
from mpsl.messages import Slice, Tensor

RAW = "raw"
"""The codec of weights: their own bytes."""

ENVELOPE = 1024
"""Bytes of a chunk that headers may take, so that a slice fits one chunk."""

MATRIX = 2
"""Dimensions from which on a tensor is coded. Biases and what BatchNorm keeps are few, and a variance rounded to zero
or below ruins a network, so they travel as they are."""

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class WeightCodec:
    """The job's `[wire] weights`: how a device's parts travel, and in which codec either way.

    "fp32": as they are. "fp16": rounded on the way to the devices; their updates are differences, in fp16. "int8": the
    same, but the differences in int8. What goes to the devices is whole, never a difference, so that it serves a device
    that missed a round, and all of them get the same bytes.
    """

    spec: str

    @property
    def exact(self) -> bool:
        """Whether parts and updates travel as they are."""
        return self.spec == "fp32"

    def globals(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """The codec of each tensor from the orchestrator to a device."""
        return self._each(tensors, "fp16")

    def updates(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """The codec of each tensor's difference from a device to the orchestrator."""
        return self._each(tensors, self.spec)

    def _each(self, tensors: Iterable[tuple[str, torch.Tensor]], spec: str) -> list[str]:
        return [
            spec if not self.exact and tensor.dtype == torch.float32 and tensor.ndim >= MATRIX else RAW
            for _, tensor in tensors
        ]


def arrays_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[NDArray[Any]]:
    """The tensors' own memory, flat, as numpy sees it."""
    return [tensor.numpy().reshape(-1) for _, tensor in tensors]


def weights_bytes(arrays: Arrays) -> int:
    """Bytes of all tensors."""
    return sum(array.nbytes for array in arrays)


def coded_bytes(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> int:
    """Bytes that the slices of all tensors add up to, coded."""
    return sum(
        array.itemsize * (end - start) if codec == RAW else parse(codec).max_bytes((end - start,))
        for array, codec in zip(arrays, codecs, strict=True)
        for start, end in _ranges(array, chunk_bytes)
    )


def slices(
    arrays: Arrays,
    purpose: Literal["global", "update", "sum"],
    version: int,
    attempt: int,
    part: int,
    chunk_bytes: int,
    codecs: Sequence[str] | None = None,
) -> Iterator[Slice]:
    """All tensors of a part in pieces that fit a chunk: views, where they are not coded; `codecs` has one for each."""
    for index, array in enumerate(arrays):
        codec = codecs[index] if codecs else RAW
        for start, end in _ranges(array, chunk_bytes):
            piece = array[start:end]
            planes = (piece.view(np.uint8).data,) if codec == RAW else parse(codec).encode(piece).planes
            tensor = Tensor(codec, str(array.dtype), piece.shape, planes)
            yield Slice(purpose, version, attempt, part, index, start, tensor)


def write(arrays: Arrays, message: Slice, codecs: Sequence[str] | None = None) -> None:
    """Copy a slice into its tensor, decoded; raises WireError where it does not fit, or is in another codec."""
    tensor = message.tensor
    if not 0 <= message.index < len(arrays):
        raise WireError(f"slice of tensor {message.index}; the part has {len(arrays)}")
    array, codec = arrays[message.index], codecs[message.index] if codecs else RAW
    if tensor.codec != codec or tensor.dtype != str(array.dtype) or len(tensor.shape) != 1:
        raise WireError(f"slice in {tensor.codec} of {tensor.dtype}, the tensor is {array.dtype} in {codec}")
    (count,) = tensor.shape
    if message.offset < 0 or message.offset + count > array.size:
        raise WireError(f"slice of {count} at {message.offset}; the tensor has {array.size} elements")
    target = array[message.offset : message.offset + count]
    if codec != RAW:
        parse(codec).decode((count,), tensor.planes, target)
    elif len(tensor.planes) != 1 or tensor.planes[0].nbytes != target.nbytes:
        raise WireError(f"slice of {count} elements in {tensor.nbytes} bytes")
    else:
        target[:] = np.frombuffer(tensor.planes[0], array.dtype)


def as_received(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> list[NDArray[Any]]:
    """What a receiver of the slices of `arrays` holds: a copy, with what coding leaves out left out."""
    received = [np.empty_like(array) for array in arrays]
    for message in slices(arrays, "global", 0, 0, 0, chunk_bytes, codecs):
        write(received, message, codecs)
    return received


def _ranges(array: NDArray[Any], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """The slices of a tensor, the same whatever codes them: no codec makes more of a value than its own bytes, and what
    a group adds, `ENVELOPE` holds."""
    step = max(1, (chunk_bytes - ENVELOPE) // array.itemsize)
    for start in range(0, array.size, step):
        yield start, min(start + step, array.size)
