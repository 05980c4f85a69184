"""One device's data as a file or mapping holds it: what a sound shard is, and the words for one that is not.

Shared by the device that trains on it and by `mpsl check`. What a shard holds never leaves the machine that it lies on.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """`x` float32 N×C×H×W, N×C×L or N×F; `y` int64 N; the same for the test data, of which there may be none."""

    source: str
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """Training samples."""
        return len(self.x)

    @property
    def test_samples(self) -> int:
        """Test samples."""
        return len(self.x_test)

    def check(self, accepts: Callable[[tuple[int, ...]], bool], shape: tuple[int, ...], classes: int) -> None:
        """Raise UsageError unless the samples fit a model that `accepts` (nominally `shape`) and so many classes."""
        for name, x, y in (("x", self.x, self.y), ("x_test", self.x_test, self.y_test)):
            if len(x) and not accepts(x.shape[1:]):
                raise UsageError(f"{self.source}: {name} has samples of shape {x.shape[1:]}, the model takes {shape}")
            if len(y) and int(y.max()) >= classes:
                raise UsageError(
                    f"{self.source}: {name.replace('x', 'y')} has label {int(y.max())}, "
                    f"the model has num_classes = {classes} (labels 0 to {classes - 1})"
                )


def read_shard(path: Path) -> Shard:
    """The shard in a .npz file; raises UsageError that names the file, the array and what is wrong."""
    return make_shard(str(path), _read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError("it is no .npz file, or not a whole one; save it with numpy.savez(file, x=…, y=…)")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read as .npz: {error}") from None


def make_shard(source: str, arrays: Mapping[str, Any]) -> Shard:
    """The shard of arrays named x, y and perhaps x_test, y_test; raises UsageError whose text begins with `source`."""
    unknown = set(arrays) - {"x", "y", "x_test", "y_test"}
    if unknown:
        raise UsageError(f"{source}: unknown array {sorted(unknown)[0]!r}; a shard has x, y and perhaps x_test, y_test")
    for name in ("x", "y"):
        if name not in arrays:
            raise UsageError(f"{source}: has no array {name!r}; a shard has x, y and perhaps x_test, y_test")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise UsageError(f"{source}: x_test and y_test go together; one is missing")
    x, y = _pair(source, "x", "y", arrays)
    if not len(x):
        raise UsageError(f"{source}: x is empty; a device needs at least one sample")
    if "x_test" not in arrays:
        return Shard(source, x, y, x[:0], y[:0])
    x_test, y_test = _pair(source, "x_test", "y_test", arrays)
    if len(x_test) and x_test.shape[1:] != x.shape[1:]:
        raise UsageError(f"{source}: x_test has samples of shape {x_test.shape[1:]}, x of {x.shape[1:]}")
    return Shard(source, x, y, x_test, y_test)


def _pair(
    source: str, x_name: str, y_name: str, arrays: Mapping[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = np.asarray(arrays[x_name]), np.asarray(arrays[y_name])
    if x.dtype != np.float32 or x.ndim not in (2, 3, 4):
        raise UsageError(
            f"{source}: {x_name} is {x.dtype} of shape {x.shape}; it must be float32, N×F, N×C×L or N×C×H×W"
        )
    if y.dtype != np.int64 or y.ndim != 1:
        raise UsageError(f"{source}: {y_name} is {y.dtype} of shape {y.shape}; it must be int64, N")
    if len(x) != len(y):
        raise UsageError(
            f"{source}: {x_name} has {len(x)} samples and {y_name} has {len(y)} labels; they must be as many"
        )
    if not np.isfinite(x).all():
        where = int(np.argwhere(~np.isfinite(x))[0][0])
        raise UsageError(f"{source}: {x_name} has NaN or infinity, first in sample {where}; clean the data")
    if len(y) and int(y.min()) < 0:
        raise UsageError(f"{source}: {y_name} has label {int(y.min())}; labels count from 0")
    return np.ascontiguousarray(x), np.ascontiguousarray(y)
