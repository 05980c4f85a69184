"""Weights as slices: read straight from, and written straight into, the tensors; a whole part is never assembled.

A message costs as much as some ten thousand bytes, and a part has dozens of tensors of a few hundred (BatchNorm's); so
small ones that follow each other share a slice, a plane each.
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
from mpsl.wire import padding

RAW = "raw"
"""The codec of weights: their own bytes."""

BYTES = "uint8"
"""The dtype of a slice of several tensors, whatever theirs are."""

ENVELOPE = 1024
"""Bytes of a chunk that headers may take, so that a slice fits one chunk."""

MAX_TOGETHER = 32
"""Tensors of one slice, so that their sizes have room in its header."""

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
    codecs = codecs or [RAW] * len(arrays)
    for first, end in _together(arrays, codecs, chunk_bytes):
        if end - first > 1:
            planes = tuple(_bytes_of(array) for array in arrays[first:end])
            tensor = Tensor(RAW, BYTES, (weights_bytes(arrays[first:end]),), planes)
            yield Slice(purpose, version, attempt, part, first, 0, tensor)
            continue
        array, codec = arrays[first], codecs[first]
        for start, stop in _ranges(array, chunk_bytes):
            piece = array[start:stop]
            planes = (_bytes_of(piece),) if codec == RAW else parse(codec).encode(piece).planes
            tensor = Tensor(codec, str(array.dtype), piece.shape, planes)
            yield Slice(purpose, version, attempt, part, first, start, tensor)


def write(arrays: Arrays, message: Slice, codecs: Sequence[str] | None = None) -> None:
    """Copy a slice into its tensors, decoded; raises WireError where it does not fit, or is in another codec."""
    if not 0 <= message.index < len(arrays):
        raise WireError(f"slice of tensor {message.index}; the part has {len(arrays)}")
    codecs = codecs or [RAW] * len(arrays)
    if len(message.tensor.planes) > 1 and message.tensor.codec == RAW:
        _write_together(arrays, message, codecs)
        return
    tensor, array, codec = message.tensor, arrays[message.index], codecs[message.index]
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


def _write_together(arrays: Arrays, message: Slice, codecs: Sequence[str]) -> None:
    """Copy whole tensors, a plane each; none is touched unless all of them fit."""
    planes, end = message.tensor.planes, message.index + len(message.tensor.planes)
    targets = arrays[message.index : end]
    if end > len(arrays) or any(codec != RAW for codec in codecs[message.index : end]):
        raise WireError(f"slice of {len(planes)} tensors from {message.index}; the part has not as many in {RAW}")
    if message.offset != 0 or message.tensor.dtype != BYTES:
        raise WireError(f"slice of {len(planes)} tensors of {message.tensor.dtype} at {message.offset}")
    for plane, target in zip(planes, targets, strict=True):
        if plane.nbytes != target.nbytes:
            raise WireError(f"slice of several tensors with {plane.nbytes} bytes for one of {target.nbytes}")
    for plane, target in zip(planes, targets, strict=True):
        target[:] = np.frombuffer(plane, target.dtype)


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


def _together(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs [first, end) of tensors: as many uncoded ones as fit a chunk together, every other tensor alone."""
    first, room = 0, 0
    for index, (array, codec) in enumerate(zip(arrays, codecs, strict=True)):
        needed = array.nbytes + padding(array.nbytes)
        joins = codec == RAW and 0 < needed <= room and index - first < MAX_TOGETHER
        if not joins:
            if index:
                yield first, index
            first, room = index, chunk_bytes - ENVELOPE if codec == RAW and array.size else 0
        room -= needed
    if arrays:
        yield first, len(arrays)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
