"""Slices that no longer share the memory that they were taken from, so that this may change while they are sent.

On a node without a memory budget they are copied. With one they are written to a file of which only the pages being
sent are in memory; a slice's share of it is freed with the slice.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from mpsl.errors import RunFailed
from mpsl.messages import Slice


def detached(slices: Iterable[Slice], directory: Path | None = None) -> list[Slice]:
    """The same slices over memory of their own, or over an unnamed file in `directory`.

    Raises RunFailed where the file finds no room.
    """
    if directory is None:
        return [_over(each, tuple(memoryview(bytes(plane)) for plane in each.tensor.planes)) for each in slices]
    try:
        with tempfile.TemporaryFile(dir=directory, prefix="mpsl-") as file:
            return [_in_file(each, file.fileno()) for each in slices]
    except OSError as error:
        raise RunFailed(
            f"a savepoint found no room in {directory}: {error.strerror}; make room there, or name another directory "
            "with --scratch"
        ) from None


def _in_file(message: Slice, descriptor: int) -> Slice:
    """Append a slice at the next page of the file, and map it from there."""
    start = -(-os.fstat(descriptor).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
    size = sum(plane.nbytes for plane in message.tensor.planes)
    if not size:
        return message
    # If the disk had no room for it, reading a page would kill the process.
    os.posix_fallocate(descriptor, start, size)
    offset = start
    for plane in message.tensor.planes:
        data = plane.cast("B")
        while data:
            written = os.pwrite(descriptor, data, offset)
            offset, data = offset + written, data[written:]
    mapped = memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, offset=start))
    planes, place = [], 0
    for plane in message.tensor.planes:
        planes.append(mapped[place : place + plane.nbytes])
        place += plane.nbytes
    return _over(message, tuple(planes))


def _over(message: Slice, planes: tuple[memoryview, ...]) -> Slice:
    return replace(message, tensor=replace(message.tensor, planes=planes))
