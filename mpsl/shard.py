"""One device's data, from a file or a mapping: validates it, and explains what is wrong.

The device that trains on it and `mpsl check` share this file. Arrays of other types are converted if nothing is lost;
otherwise the error shows the line of numpy that converts them. The content of a shard never leaves its machine.
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

MAX_USUAL = 1000.0
"""Above this size samples are not refused, but a warning says that they are probably not scaled."""


@dataclass(frozen=True)
class Shard:
    """`x` float32 N×C×H×W, N×C×L or N×F; `y` int64 N; the same for the test data, which may be empty."""

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
        """Raise UsageError unless the samples fit a model that `accepts` (nominally `shape`) and `classes` classes."""
        for name, x, y in (("x", self.x, self.y), ("x_test", self.x_test, self.y_test)):
            if len(x) and not accepts(x.shape[1:]):
                line = _reshaping(name, x.shape[1:], accepts)
                raise UsageError(
                    f"{self.source}: {name} has samples of shape {x.shape[1:]}, the model takes {shape}{line}"
                )
            if len(y) and int(y.max()) >= classes:
                raise UsageError(
                    f"{self.source}: {name.replace('x', 'y')} has label {int(y.max())}, "
                    f"the model has num_classes = {classes} (labels 0 to {classes - 1})"
                )

    def warnings(self) -> list[str]:
        """What is allowed, but is likely to spoil the training: samples of a size that no learning rate suits."""
        found = []
        for name, x in (("x", self.x), ("x_test", self.x_test)):
            largest = max(float(x.max()), -float(x.min())) if x.size else 0.0
            if largest > MAX_USUAL:
                columns = np.abs(x).max(axis=0).reshape(-1)
                column = int(columns.argmax())
                many = int((columns > MAX_USUAL).sum())
                where = f"value {column} of a sample" + (f" and {many - 1} more" if many > 1 else "")
                found.append(
                    f"{self.source}: {name} reaches {largest:.3g} in {where}; training with samples of such a size is "
                    f"likely to diverge: scale them, on all devices by the same numbers: {name} = ({name} - mean) / std"
                )
        return found


def _reshaping(name: str, shape: tuple[int, ...], accepts: Callable[[tuple[int, ...]], bool]) -> str:
    """Return the line of numpy that adds a missing channel or moves a last one; "" if neither helps."""
    if accepts((1, *shape)):
        return f": {name} = {name}[:, None]"
    if len(shape) > 1 and accepts((shape[-1], *shape[:-1])):
        return f": {name} = numpy.moveaxis({name}, -1, 1)"
    return ""


def read_shard(path: Path) -> Shard:
    """The shard in a .npz file; raises UsageError that names the file, the array and what is wrong."""
    return make_shard(str(path), _read(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as opened:
            if not zipfile.is_zipfile(opened):
                raise ValueError("it is not a complete .npz file; save it with numpy.savez(file, x=…, y=…)")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: is a directory; name one .npz file, or with --count N a directory of them") from None
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
    if not len(x_test):
        return Shard(source, x, y, x[:0], y[:0])
    if x_test.shape[1:] != x.shape[1:]:
        raise UsageError(f"{source}: x_test has samples of shape {x_test.shape[1:]}, x of {x.shape[1:]}")
    return Shard(source, x, y, x_test, y_test)


def _pair(
    source: str, x_name: str, y_name: str, arrays: Mapping[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x = _samples(source, x_name, _array(source, x_name, arrays[x_name]))
    y = _labels(source, y_name, _array(source, y_name, arrays[y_name]))
    if len(x) != len(y):
        raise UsageError(
            f"{source}: {x_name} has {len(x)} samples and {y_name} has {len(y)} labels; the numbers must be equal"
        )
    if not np.isfinite(x).all():
        where = int(np.argwhere(~np.isfinite(x))[0][0])
        raise UsageError(f"{source}: {x_name} has NaN or infinity, first in sample {where}; clean the data")
    if len(y) and int(y.min()) < 0:
        where = int(y.argmin())
        raise UsageError(
            f"{source}: {y_name} has label {int(y[where])}; labels count from 0. If it marks samples without a label, "
            f"leave them out: {x_name}, {y_name} = {x_name}[{y_name} >= 0], {y_name}[{y_name} >= 0]. "
            f"If it is a class, number it: {y_name} = numpy.unique({y_name}, return_inverse=True)[1]"
        )
    return x, y


def _array(source: str, name: str, values: object) -> NDArray[Any]:
    """Return the content of a file or the result of a function as an array of numbers."""
    try:
        array = np.asarray(values)
    except Exception as error:  # a list of unequal lists, a tensor that is not on the CPU, or anything else called x
        raise UsageError(f"{source}: {name} cannot be read as a numpy array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{source}: {name} is {array.dtype} of shape {array.shape}; {_as_numbers(name, array)}")
    return array


def _as_numbers(name: str, array: NDArray[Any]) -> str:
    if name.startswith("y") and array.dtype.kind in "US":
        return f"labels are numbers: {name} = numpy.unique({name}, return_inverse=True)[1]"
    kind = "float32" if name.startswith("x") else "int64"
    return f"it must hold numbers: {name} = {name}.astype(numpy.{kind})"


def _samples(source: str, name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples as float32, if that loses nothing."""
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(0, 1)
    if array.ndim not in (2, 3, 4):
        line = f": {name} = {name}[:, None]" if array.ndim == 1 else ""
        raise UsageError(
            f"{source}: {name} is {array.dtype} of shape {array.shape}; it must be N×F, N×C×L or N×C×H×W{line}"
        )
    with np.errstate(all="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.float32)
        kept = array.dtype == np.float32 or np.array_equal(
            converted.astype(array.dtype), array, equal_nan=array.dtype.kind == "f"
        )
    if not kept:
        raise UsageError(
            f"{source}: {name} is {array.dtype}, and float32 cannot hold all of its values; if you can do without "
            f"the last digits: {name} = {name}.astype(numpy.float32)"
        )
    return converted


def _labels(source: str, name: str, array: NDArray[Any]) -> NDArray[np.int64]:
    """Return labels as int64, N, if that loses nothing; one-hot rows become the number of their column."""
    shape = array.shape
    if array.ndim == 2 and shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and shape[1] > 1:
        if not (((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
            raise UsageError(
                f"{source}: {name} is {array.dtype} of shape {shape} and not one-hot; it must be int64, N; if the "
                f"largest value of a row is its label: {name} = {name}.argmax(axis=1)"
            )
        array = array.argmax(axis=1)
    if array.ndim != 1:
        raise UsageError(f"{source}: {name} is {array.dtype} of shape {shape}; it must be int64, N")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = int(np.argmin(np.isfinite(array)))
        raise UsageError(
            f"{source}: {name} has NaN or infinity, first in sample {where}; leave samples without a label out, of "
            f"{name.replace('y', 'x')} too"
        )
    with np.errstate(all="ignore"):
        converted = np.ascontiguousarray(array, dtype=np.int64)
        kept = np.array_equal(converted.astype(array.dtype), array) and bool(((converted < 0) == (array < 0)).all())
    if not kept:
        raise UsageError(
            f"{source}: {name} is {array.dtype}, and int64 cannot hold all of its values; labels are whole numbers: "
            f"{name} = numpy.unique({name}, return_inverse=True)[1]"
        )
    return converted
