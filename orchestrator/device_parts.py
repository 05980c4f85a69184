"""The devices' first and last parts at the orchestrator. The committed parts are exactly what the devices hold.

If weights are sent coded, a commit is rounded to what the devices receive, and the model on disk is the rounded one, so
all have the same model. The rounding error is added to the next commit. An update is then a difference from the
committed part with which the device began its round.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl.messages import Slice
from mpsl.nn import weights
from mpsl.nn.weights import RAW, WeightCodec

Arrays = list[NDArray[Any]]


class DeviceParts:
    """`parts`: the named tensors of the first and of the last part. Their memory holds the committed values."""

    def __init__(self, parts: Iterable[list[tuple[str, torch.Tensor]]], codec: WeightCodec, chunk_bytes: int) -> None:
        parts = list(parts)
        self.arrays: list[Arrays] = [weights.arrays_of(tensors) for tensors in parts]
        self._chunk_bytes = chunk_bytes
        self._exact = codec.exact
        self._globals = [codec.globals(tensors) for tensors in parts]
        self._updates = [codec.updates(tensors) for tensors in parts]
        self._left_out: list[dict[int, NDArray[Any]]] = [{} for _ in parts]
        self.round_to_received(self.arrays)

    @property
    def update_bytes(self) -> int:
        """The sum of the bytes of an update's slices."""
        coded = zip(self.arrays, self._updates, strict=True)
        return sum(weights.coded_bytes(arrays, codecs, self._chunk_bytes) for arrays, codecs in coded)

    def empty(self) -> list[Arrays]:
        """Return memory for an update."""
        return [[np.empty_like(array) for array in arrays] for arrays in self.arrays]

    def slices(self, version: int) -> list[Slice]:
        """Return the committed parts as slices for a device."""
        found: list[Slice] = []
        for part, (arrays, codecs) in enumerate(zip(self.arrays, self._globals, strict=True)):
            found += weights.slices(arrays, "global", version, 0, part, self._chunk_bytes, codecs)
        return found

    def write_update(self, staged: list[Arrays], message: Slice) -> None:
        """Write a slice of an update, so that `staged` holds the device's own weights there. Raises WireError."""
        codecs = self._updates[message.part]
        weights.write(staged[message.part], message, codecs)
        if codecs[message.index] != RAW:
            piece = slice(message.offset, message.offset + message.tensor.shape[0])
            staged[message.part][message.index][piece] += self.arrays[message.part][message.index][piece]

    def round_to_received(self, averages: list[Arrays]) -> None:
        """Round the new averages to what the devices will receive, after adding the last commit's rounding error."""
        if self._exact:
            return
        for arrays, codecs, left_out in zip(averages, self._globals, self._left_out, strict=True):
            for index, missing in left_out.items():
                arrays[index] += missing
            received = weights.as_received(arrays, codecs, self._chunk_bytes)
            for index, codec in enumerate(codecs):
                if codec != RAW:
                    left_out[index] = arrays[index] - received[index]
                    arrays[index][...] = received[index]
