"""Weights as slices: read straight from, and written straight into, the tensors; a whole part is never assembled."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl.errors import WireError
from mpsl.messages import Slice, Tensor

RAW = "raw"
"""The codec of weights: their own bytes."""

ENVELOPE = 1024
"""Bytes of a chunk that headers may take, so that a slice fits one chunk."""

Arrays = Sequence[NDArray[Any]]


def arrays_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[NDArray[Any]]:
    """The tensors' own memory, flat, as numpy sees it."""
    return [tensor.numpy().reshape(-1) for _, tensor in tensors]


def weights_bytes(arrays: Arrays) -> int:
    """Bytes of all tensors."""
    return sum(array.nbytes for array in arrays)


def slices(
    arrays: Arrays, purpose: Literal["global", "update", "sum"], version: int, attempt: int, part: int, chunk_bytes: int
) -> Iterator[Slice]:
    """All tensors of a part in pieces that fit a chunk; each is a view."""
    for index, array in enumerate(arrays):
        step = max(1, (chunk_bytes - ENVELOPE) // array.itemsize)
        for offset in range(0, array.size, step):
            piece = array[offset : offset + step]
            tensor = Tensor(RAW, str(array.dtype), (piece.size,), (memoryview(piece).cast("B"),))
            yield Slice(purpose, version, attempt, part, index, offset, tensor)


def write(arrays: Arrays, message: Slice) -> None:
    """Copy a slice into its tensor; raises WireError where it does not fit."""
    tensor = message.tensor
    if not 0 <= message.index < len(arrays):
        raise WireError(f"slice of tensor {message.index}; the part has {len(arrays)}")
    array = arrays[message.index]
    if tensor.codec != RAW or tensor.dtype != str(array.dtype) or len(tensor.shape) != 1 or len(tensor.planes) != 1:
        raise WireError(f"slice in {tensor.codec} of {tensor.dtype}, the tensor is {array.dtype}")
    (count,) = tensor.shape
    if message.offset < 0 or message.offset + count > array.size or tensor.planes[0].nbytes != count * array.itemsize:
        raise WireError(f"slice of {count} at {message.offset}; the tensor has {array.size} elements")
    array[message.offset : message.offset + count] = np.frombuffer(tensor.planes[0], array.dtype)
