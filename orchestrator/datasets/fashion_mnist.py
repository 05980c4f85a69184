"""fashion-mnist: 70,000 pictures of clothes, 28×28, from the IDX files of Debian's package dataset-fashion-mnist."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpsl.errors import UsageError
from orchestrator.datasets import Dataset, Labels, Samples, datasets

DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
_UNSIGNED_BYTE = 0x08


@datasets.register("fashion-mnist")
def load(seed: int) -> Dataset:
    """Return the published split, whatever the seed. Raises UsageError as `read` does."""
    return read(DIRECTORY)


def read(directory: Path) -> Dataset:
    """Read the four files in a directory. Raises UsageError if one is missing or invalid."""
    return Dataset(*_pair(directory, "train"), *_pair(directory, "t10k"))


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read the array of bytes in a gzipped IDX file.

    The format is 00 00 08, the number of dimensions, each dimension as 4 bytes big-endian, and the data. Raises
    UsageError if the file is missing or unreadable, has another type or rank, or has another length than it announces.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{path} is missing: sudo apt-get install dataset-fashion-mnist") from None
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    header = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]) or len(content) < header:
        raise UsageError(
            f"{path} is not an IDX file of bytes in {dimensions} dimensions: it begins with {content[:4].hex()}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise UsageError(f"{path} announces {shape}, {math.prod(shape)} bytes, but holds {len(content) - header}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _pair(directory: Path, split: str) -> tuple[Samples, Labels]:
    images = read_idx(directory / f"{split}-images-idx3-ubyte.gz", 3)
    labels = read_idx(directory / f"{split}-labels-idx1-ubyte.gz", 1)
    if len(images) != len(labels):
        raise UsageError(f"{directory}: {len(images)} images but {len(labels)} labels in {split}; install it again")
    return images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)
