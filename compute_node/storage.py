"""Where the tensors of a part lie between their uses: in memory, or in a file of which only what is in use is resident.

The file has no name: it goes with the process. Whoever uses the arrays of a file says when a tensor is done with, so
that no more than one is resident at a time; in memory that does nothing.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mpsl.errors import RunFailed

DIRECTORY = Path("/var/tmp")
"""On disk by custom, where /tmp may be memory."""


class Storage:
    """Room for the state of `part`, with undefined content; in a file of `directory` where one is given.

    Raises RunFailed where the file finds no room.
    """

    def __init__(self, part: nn.Module, directory: Path | None = None) -> None:
        state = part.state_dict()
        self._shapes = {name: tensor.shape for name, tensor in state.items()}
        self.nbytes = sum(tensor.nbytes for tensor in state.values())
        self._file = _map(sum(_aligned(tensor.nbytes) for tensor in state.values()), directory) if directory else None
        self.arrays: list[NDArray[Any]] = []
        start = 0
        for tensor in state.values():
            if self._file is None:
                # torch's own memory: aligned as its kernels like it.
                self.arrays.append(torch.empty(tensor.numel(), dtype=tensor.dtype).numpy())
            else:
                kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype
                self.arrays.append(np.frombuffer(self._file, kind, tensor.numel(), start))
            start += _aligned(tensor.nbytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes held in memory for good."""
        return self.nbytes if self._file is None else 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """The same memory under the part's names and shapes."""
        pairs = zip(self._shapes.items(), self.arrays, strict=True)
        return {name: torch.from_numpy(array).reshape(shape) for (name, shape), array in pairs}

    def each(self) -> Iterator[NDArray[Any]]:
        """One array after the other; none stays resident behind the reader."""
        for array in self.arrays:
            yield array
            self.evict_pages()

    def evict_pages(self) -> None:
        """What was used goes back to the file, as far as memory is concerned."""
        if self._file is not None:
            self._file.madvise(mmap.MADV_DONTNEED)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _map(size: int, directory: Path) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(dir=directory, prefix="mpsl-") as file:
            # Without room for all of it a later write would kill the process.
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
            return mmap.mmap(file.fileno(), max(size, 1))
    except OSError as error:
        raise RunFailed(
            f"the memory budget is short, so the part needs {size:,} bytes in a file of {directory}: {error.strerror}; "
            "make room there, name another directory with --scratch, or raise --memory-budget"
        ) from None
