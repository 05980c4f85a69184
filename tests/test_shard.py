"""A shard is read whole and sound, or refused with its name, the array and what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_agent.shard import Shard, load_shard
from mpsl.errors import UsageError

X = np.linspace(0, 1, 2 * 3 * 4 * 4, dtype=np.float32).reshape(2, 3, 4, 4)
Y = np.array([1, 0])


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path, **arrays)
    return str(path)


def refusal(path: Path, **arrays: Any) -> str:
    source = saved(path, **arrays)
    with pytest.raises(UsageError) as caught:
        load_shard(source)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dev-1.npz"


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (5, 9, 128), (5, 7)])
def test_a_sound_shard_is_read_whole(path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    shard = load_shard(saved(path, x=x, y=np.arange(5), x_test=x[:2], y_test=np.arange(2)))
    assert np.array_equal(shard.x, x)
    assert shard.y.tolist() == [0, 1, 2, 3, 4]
    assert (shard.samples, shard.test_samples) == (5, 2)
    assert shard.source == str(path)


def test_test_data_may_be_missing_or_empty(path: Path) -> None:
    assert load_shard(saved(path, x=X, y=Y)).test_samples == 0
    assert load_shard(saved(path, x=X, y=Y, x_test=X[:0], y_test=Y[:0])).test_samples == 0


def test_arrays_are_contiguous_whatever_the_file_has(path: Path) -> None:
    shard = load_shard(saved(path, x=np.asfortranarray(X), y=Y))
    assert shard.x.flags.c_contiguous
    assert np.array_equal(shard.x, X)


def changed(array: NDArray[Any], where: Any, value: Any) -> NDArray[Any]:
    array = array.copy()
    array[where] = value
    return array


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": Y}, "has no array 'x'"),
        ({"x": X}, "has no array 'y'"),
        ({"x": X, "y": Y, "z": Y}, "unknown array 'z'"),
        ({"x": X, "y": Y, "x_test": X}, "x_test and y_test go together"),
        ({"x": X, "y": Y, "y_test": Y}, "x_test and y_test go together"),
        ({"x": X[:0], "y": Y[:0]}, "x is empty"),
        ({"x": X.astype(np.float64), "y": Y}, "x is float64 of shape (2, 3, 4, 4); it must be float32"),
        ({"x": (255 * X).astype(np.uint8), "y": Y}, "x is uint8"),
        ({"x": X.reshape(-1), "y": Y}, "x is float32 of shape (96,)"),
        ({"x": X.reshape(2, 3, 4, 2, 2), "y": Y}, "x is float32 of shape (2, 3, 4, 2, 2)"),
        ({"x": X, "y": Y.astype(np.int32)}, "y is int32 of shape (2,); it must be int64"),
        ({"x": X, "y": Y.astype(np.float32)}, "y is float32"),
        ({"x": X, "y": np.eye(2, dtype=np.int64)}, "y is int64 of shape (2, 2)"),
        ({"x": X, "y": np.arange(3)}, "x has 2 samples and y has 3 labels"),
        ({"x": changed(X, (1, 0, 0, 0), np.nan), "y": Y}, "x has NaN or infinity, first in sample 1"),
        ({"x": changed(X, (0, 2, 3, 3), np.inf), "y": Y}, "x has NaN or infinity, first in sample 0"),
        ({"x": changed(X, (0, 2, 3, 3), -np.inf), "y": Y}, "x has NaN or infinity"),
        ({"x": X, "y": np.array([0, -1])}, "y has label -1; labels count from 0"),
        ({"x": X, "y": Y, "x_test": changed(X, 0, np.nan), "y_test": Y}, "x_test has NaN or infinity"),
        ({"x": X, "y": Y, "x_test": X, "y_test": np.array([0, -3])}, "y_test has label -3"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "x_test has samples of shape (2, 4, 4), x of (3, 4, 4)"),
        ({"x": X, "y": Y, "x_test": X, "y_test": np.arange(5)}, "x_test has 2 samples and y_test has 5 labels"),
    ],
)
def test_bad_shards_are_refused(path: Path, arrays: dict[str, Any], says: str) -> None:
    assert says in refusal(path, **arrays)


def test_files_that_are_no_shards(tmp_path: Path) -> None:
    whole = Path(saved(tmp_path / "whole.npz", x=X, y=Y)).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    np.save(tmp_path / "array.npy", X)
    contents = {
        "empty.npz": b"",
        "text.npz": b"x,y\n1,2\n",
        "short.npz": whole[:-30],
        "half.npz": whole[: len(whole) // 2],
        "flipped.npz": bytes(flipped),
        "array.npz": (tmp_path / "array.npy").read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=f"{name}: "):
            load_shard(str(tmp_path / name))
    (tmp_path / "directory.npz").mkdir()
    for name in ("missing.npz", "directory.npz"):
        with pytest.raises(UsageError, match=f"{name}: "):
            load_shard(str(tmp_path / name))


def test_a_pickle_is_never_opened(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was opened",))

    np.savez(path, x=X, y=np.array([Trap(), Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        load_shard(str(path))


SOUND = Shard("dev-1.npz", X, Y, X[:1], np.array([3]))


def test_samples_and_labels_that_do_not_fit_the_model() -> None:
    SOUND.check(lambda shape: shape == (3, 4, 4), (3, 4, 4), 4)
    with pytest.raises(UsageError, match=r"dev-1.npz: x has samples of shape \(3, 4, 4\), the model takes \(1, 8, 8\)"):
        SOUND.check(lambda shape: shape == (1, 8, 8), (1, 8, 8), 4)
    with pytest.raises(UsageError, match=r"dev-1.npz: y_test has label 3, the model has num_classes = 3"):
        SOUND.check(lambda shape: True, (3, 4, 4), 3)
    with pytest.raises(UsageError, match=r"dev-1.npz: y has label 1, the model has num_classes = 1"):
        SOUND.check(lambda shape: True, (3, 4, 4), 1)


def made() -> dict[str, Any]:
    """A shard that a function makes, named by test_a_function_makes_a_shard."""
    return {"x": X, "y": Y}


def not_made() -> list[int]:
    """What is no shard."""
    return [1, 2]


def test_a_function_makes_a_shard() -> None:
    shard = load_shard("test_shard:made")
    assert np.array_equal(shard.x, X)
    for source, says in [
        ("test_shard:missing", "missing"),
        ("no_such_module:made", "no_such_module"),
        ("test_shard:not_made", "must return a mapping with x and y, not list"),
        ("test_shard:X", "X is no function"),
        ("test_shard:", "package.module:function"),
        (":made", "package.module:function"),
    ]:
        with pytest.raises(UsageError, match=says):
            load_shard(source)
