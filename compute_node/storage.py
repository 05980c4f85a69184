"""Keeps the tensors of a part between uses: in memory, or in a mapped file of which only the used pages are resident.

The file has no name, so it disappears with the process. Callers report when they are done with a tensor of a file, so
only one is resident at a time. In memory this does nothing.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl.errors import RunFailed

DIRECTORY = Path("/var/tmp")
"""The default directory. It is usually on disk, while /tmp may be in memory."""


class Storage:
    """Memory for tensors like these, by name, with undefined content. If `directory` is given, it is a file there.

    Raises RunFailed if there is no room for the file.
    """

    def __init__(self, tensors: Iterable[tuple[str, torch.Tensor]], directory: Path | None = None) -> None:
        state = dict(tensors)
        self._shapes = {name: tensor.shape for name, tensor in state.items()}
        self.nbytes = sum(tensor.nbytes for tensor in state.values())
        self._file = _map(sum(_aligned(tensor.nbytes) for tensor in state.values()), directory) if directory else None
        self.arrays: list[NDArray[Any]] = []
        start = 0
        for tensor in state.values():
            if self._file is None:
                # torch allocates it, so it is aligned as torch's kernels need it.
                self.arrays.append(torch.empty(tensor.numel(), dtype=tensor.dtype).numpy())
            else:
                kind = torch.empty(0, dtype=tensor.dtype).numpy().dtype
                self.arrays.append(np.frombuffer(self._file, kind, tensor.numel(), start))
            start += _aligned(tensor.nbytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes that are always in memory."""
        return self.nbytes if self._file is None else 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the same memory under the part's names and shapes."""
        pairs = zip(self._shapes.items(), self.arrays, strict=True)
        return {name: torch.from_numpy(array).reshape(shape) for (name, shape), array in pairs}

    def each(self) -> Iterator[NDArray[Any]]:
        """Yield one array after the other. The pages of an array are evicted after its use."""
        for array in self.arrays:
            yield array
            self.evict_pages()

    def evict_pages(self) -> None:
        """Evict the pages that were used: their content stays in the file only."""
        if self._file is not None:
            self._file.madvise(mmap.MADV_DONTNEED)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _map(size: int, directory: Path) -> mmap.mmap:
    try:
        with tempfile.TemporaryFile(dir=directory, prefix="mpsl-") as file:
            # If the disk had no room for all of it, a later write would kill the process.
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
            return mmap.mmap(file.fileno(), max(size, 1))
    except OSError as error:
        raise RunFailed(
            f"the memory budget is short, so the part needs {size:,} bytes in a file of {directory}: {error.strerror}; "
            "make room there, name another directory with --scratch, or raise --memory-budget"
        ) from None
