"""Weights as slices: read directly from the tensors and written directly into them. A part is never assembled.

A message costs as much as some ten thousand bytes, and a part has dozens of tensors of a few hundred bytes (those of a
BatchNorm). So small tensors that follow each other share a slice, one plane each. Slices between nodes and the
orchestrator are the tensors' own bytes. A device's slices may be coded (`WeightCodec`) if the job says so. Then both
ends use the same codec for each tensor, and a slice in another codec is refused.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl.codecs import parse
from mpsl.errors import WireError
from mpsl.messages import Purpose, Slice, Tensor
from mpsl.wire import padding

RAW = "raw"
"""The codec of weights: their own bytes."""

SHARED_SLICE_DTYPE = "uint8"
"""The dtype of a slice of several tensors, whatever the dtypes of the tensors."""

HEADER_ROOM_BYTES = 1024
"""Bytes of a chunk that are left for headers, so that a slice fits into one chunk."""

MAX_TOGETHER = 32
"""Maximum number of tensors in a slice, so that their sizes fit into its header."""

MIN_CODED_DIMENSIONS = 2
"""The minimum number of dimensions of a coded tensor.

Biases and the statistics of BatchNorms are small and are sent as they are: a variance that is rounded to zero or below
ruins a network.
"""

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class WeightCodec:
    """The job's `[wire] weights`: how a device's parts are sent, and in which codec in each direction.

    "fp32": as they are. "fp16": the parts are rounded on the way to the devices, and updates are differences in fp16.
    "int8": the same, with differences in int8. Devices always get whole parts, never differences. So a device that
    missed a round can use them, and all devices get the same bytes.
    """

    spec: str

    @property
    def exact(self) -> bool:
        """Whether parts and updates are sent as they are."""
        return self.spec == "fp32"

    def globals(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Return the codec of each tensor from the orchestrator to a device."""
        return self._each(tensors, "fp16")

    def updates(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
        """Return the codec of each tensor's difference from a device to the orchestrator."""
        return self._each(tensors, self.spec)

    def _each(self, tensors: Iterable[tuple[str, torch.Tensor]], spec: str) -> list[str]:
        return [
            spec if not self.exact and tensor.dtype == torch.float32 and tensor.ndim >= MIN_CODED_DIMENSIONS else RAW
            for _, tensor in tensors
        ]


def arrays_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[NDArray[Any]]:
    """Return the tensors' own memory as flat numpy arrays."""
    return [tensor.numpy().reshape(-1) for _, tensor in tensors]


def digest(arrays: Iterable[NDArray[Any]]) -> str:
    """The BLAKE2b digest of the bytes of arrays in their order: the same for the same weights."""
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(array.data.cast("B"))
    return found.hexdigest()


def weights_bytes(arrays: Arrays) -> int:
    """Return the bytes of all tensors."""
    return sum(array.nbytes for array in arrays)


def coded_bytes(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> int:
    """Return the bytes of the slices of all tensors, as coded."""
    return sum(
        array.itemsize * (end - start) if codec == RAW else parse(codec).max_bytes((end - start,))
        for array, codec in zip(arrays, codecs, strict=True)
        for start, end in _ranges(array, chunk_bytes)
    )


def slices(
    arrays: Arrays,
    purpose: Purpose,
    version: int,
    attempt: int,
    part: int,
    chunk_bytes: int,
    codecs: Sequence[str] | None = None,
) -> Iterator[Slice]:
    """Yield all tensors of a part in slices that fit a chunk. Uncoded slices are views. `codecs` has one for each."""
    codecs = codecs or [RAW] * len(arrays)
    for first, end in _together(arrays, codecs, chunk_bytes):
        if end - first > 1:
            planes = tuple(_bytes_of(array) for array in arrays[first:end])
            tensor = Tensor(RAW, SHARED_SLICE_DTYPE, (weights_bytes(arrays[first:end]),), planes)
            yield Slice(purpose, version, attempt, part, first, 0, tensor)
            continue
        array, codec = arrays[first], codecs[first]
        for start, stop in _ranges(array, chunk_bytes):
            piece = array[start:stop]
            planes = (_bytes_of(piece),) if codec == RAW else parse(codec).encode(piece).planes
            tensor = Tensor(codec, str(array.dtype), piece.shape, planes)
            yield Slice(purpose, version, attempt, part, first, start, tensor)


def write(arrays: Arrays, message: Slice, codecs: Sequence[str] | None = None) -> None:
    """Decode a slice into its tensors. Raises WireError where it does not fit or is in another codec."""
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
    """Copy whole tensors, one plane each. No tensor is changed unless all of them fit."""
    planes, end = message.tensor.planes, message.index + len(message.tensor.planes)
    targets = arrays[message.index : end]
    if end > len(arrays) or any(codec != RAW for codec in codecs[message.index : end]):
        raise WireError(f"slice of {len(planes)} tensors from {message.index}; the part has not as many in {RAW}")
    if message.offset != 0 or message.tensor.dtype != SHARED_SLICE_DTYPE:
        raise WireError(f"slice of {len(planes)} tensors of {message.tensor.dtype} at {message.offset}")
    for plane, target in zip(planes, targets, strict=True):
        if plane.nbytes != target.nbytes:
            raise WireError(f"slice of several tensors with {plane.nbytes} bytes for one of {target.nbytes}")
    for plane, target in zip(planes, targets, strict=True):
        target[:] = np.frombuffer(plane, target.dtype)


def as_received(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> list[NDArray[Any]]:
    """Return what a receiver of the slices of `arrays` holds: a copy, rounded as the codecs round."""
    received = [np.empty_like(array) for array in arrays]
    for message in slices(arrays, "global", 0, 0, 0, chunk_bytes, codecs):
        write(received, message, codecs)
    return received


def _ranges(array: NDArray[Any], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """The slices of a tensor, which are the same for every codec.

    No codec writes more bytes for a value than the value has, and `HEADER_ROOM_BYTES` has room for what a group adds.
    """
    step = max(1, (chunk_bytes - HEADER_ROOM_BYTES) // array.itemsize)
    for start in range(0, array.size, step):
        yield start, min(start + step, array.size)


def _together(arrays: Arrays, codecs: Sequence[str], chunk_bytes: int) -> Iterator[tuple[int, int]]:
    """Runs [first, end) of tensors: as many uncoded tensors as fit a chunk together, every other tensor alone."""
    first, room = 0, 0
    for index, (array, codec) in enumerate(zip(arrays, codecs, strict=True)):
        needed = array.nbytes + padding(array.nbytes)
        joins = codec == RAW and 0 < needed <= room and index - first < MAX_TOGETHER
        if not joins:
            if index:
                yield first, index
            first, room = index, chunk_bytes - HEADER_ROOM_BYTES if codec == RAW and array.size else 0
        room -= needed
    if arrays:
        yield first, len(arrays)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data
