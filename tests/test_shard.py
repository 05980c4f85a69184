"""A shard is read whole and sound, or refused with its name, the array and what to do."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_agent.shard_source import Shard, load_shard
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
        ({"x": X.astype(np.float64) / 3, "y": Y}, "x is float64, and float32 cannot hold all of its values"),
        ({"x": X.astype(complex), "y": Y}, "x is complex128 of shape (2, 3, 4, 4); it must hold numbers"),
        ({"x": X.reshape(-1), "y": Y}, "x is float32 of shape (96,)"),
        ({"x": X.reshape(2, 3, 4, 2, 2), "y": Y}, "x is float32 of shape (2, 3, 4, 2, 2)"),
        ({"x": X, "y": Y + 0.5}, "y is float64, and int64 cannot hold all of its values"),
        ({"x": X, "y": 2 * np.eye(2, dtype=np.int64)}, "y is int64 of shape (2, 2) and not one-hot"),
        ({"x": X, "y": Y.reshape(2, 1, 1)}, "y is int64 of shape (2, 1, 1); it must be int64, N"),
        ({"x": X, "y": np.arange(3)}, "x has 2 samples and y has 3 labels"),
        ({"x": changed(X, (1, 0, 0, 0), np.nan), "y": Y}, "x has NaN or infinity, first in sample 1"),
        (
            {"x": changed(X.astype(np.float64), (1, 0, 0, 0), np.nan), "y": Y},
            "x has NaN or infinity, first in sample 1",
        ),
        ({"x": changed(X, (0, 2, 3, 3), np.inf), "y": Y}, "x has NaN or infinity, first in sample 0"),
        ({"x": changed(X, (0, 2, 3, 3), -np.inf), "y": Y}, "x has NaN or infinity"),
        ({"x": X, "y": np.array([0, -1])}, "y has label -1; labels count from 0"),
        ({"x": X, "y": np.array([0, -1])}, "leave them out: x, y = x[y >= 0], y[y >= 0]"),
        ({"x": X, "y": np.array([0, np.nan])}, "y has NaN or infinity, first in sample 1; leave samples without"),
        ({"x": X, "y": np.array([-np.inf, 1])}, "y has NaN or infinity, first in sample 0"),
        ({"x": X, "y": Y, "x_test": changed(X, 0, np.nan), "y_test": Y}, "x_test has NaN or infinity"),
        ({"x": X, "y": Y, "x_test": X, "y_test": np.array([0, -3])}, "y_test has label -3"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "x_test has samples of shape (2, 4, 4), x of (3, 4, 4)"),
        ({"x": X, "y": Y, "x_test": X, "y_test": np.arange(5)}, "x_test has 2 samples and y_test has 5 labels"),
    ],
)
def test_bad_shards_are_refused(path: Path, arrays: dict[str, Any], says: str) -> None:
    assert says in refusal(path, **arrays)


WHOLE = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "i1", "u1", ">i2", "<u2", "i4", ">i4", "u4", "i8", ">u8", "f2", "<f4", ">f4", "f8", ">f8", "longdouble"],
)
def test_samples_of_every_type_are_converted_where_nothing_is_lost(path: Path, dtype: str) -> None:
    x = WHOLE.astype(dtype)
    shard = load_shard(saved(path, x=x, y=Y, x_test=x[:1], y_test=Y[:1]))
    for converted, given in ((shard.x, x), (shard.x_test, x[:1])):
        assert (converted.dtype.str, converted.flags.c_contiguous) == ("<f4", True)
        assert np.array_equal(converted.astype(np.float64), given.astype(np.float64))


@pytest.mark.parametrize(
    "y",
    [
        *(np.array([1, 0]).astype(dtype) for dtype in ("bool", "i1", "u1", ">i4", "u4", ">i8", "u8", "f4", ">f8")),
        np.array([[1], [0]]),
        np.array([[1.0], [0.0]], dtype=np.float32),
        np.array([[0, 1], [1, 0]], dtype=np.uint8),
        np.array([[0, 1, 0], [1, 0, 0]], dtype=np.float64),
        np.array([[False, True], [True, False]]),
    ],
    ids=lambda y: f"{y.dtype.str}{y.shape}",
)
def test_labels_of_every_type_columns_and_one_hot_rows_are_converted(path: Path, y: NDArray[Any]) -> None:
    shard = load_shard(saved(path, x=X, y=y, x_test=X, y_test=y))
    for labels in (shard.y, shard.y_test):
        assert (labels.dtype.str, labels.tolist(), labels.flags.c_contiguous) == ("<i8", [1, 0], True)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X.astype(np.float64) / 3},
        {"x": np.full((2, 5), 2**24 + 1)},
        {"x": np.full((2, 5), 2.0**-200)},
        {"x": X.astype(complex)},
        {"x": np.array([["1", "2"], ["3", "4.5"]])},
        {"x": np.array([1.0, 2.0])},
        {"y": np.array([0.5, 1.5])},
        {"y": np.array([2**63, 1], dtype=np.uint64)},
        {"y": np.array([-1, 1])},
        {"y": np.array(["cat", "dog"])},
        {"y": np.array([[0.1, 0.9], [0.7, 0.3]])},
    ],
    ids=lambda arrays: ",".join(f"{name}:{array.dtype}{array.shape}" for name, array in arrays.items()),
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_the_line_of_numpy_in_the_error_mends_the_shard(path: Path, arrays: dict[str, Any]) -> None:
    arrays = {"x": X, "y": Y} | arrays
    line = refusal(path, **arrays).rpartition(": ")[2]
    exec(line, {"numpy": np}, arrays)
    assert load_shard(saved(path, **arrays)).samples == 2


def test_the_line_of_numpy_also_mends_channels_that_are_missing_or_last(path: Path) -> None:
    for shape in ((2, 8, 8), (2, 8, 8, 1)):
        arrays = {"x": np.zeros(shape, np.float32), "y": Y}
        with pytest.raises(UsageError, match="the model takes") as caught:
            load_shard(saved(path, **arrays)).check(lambda shape: shape == (1, 8, 8), (1, 8, 8), 2)
        exec(str(caught.value).rpartition(": ")[2], {"numpy": np}, arrays)
        load_shard(saved(path, **arrays)).check(lambda shape: shape == (1, 8, 8), (1, 8, 8), 2)


@pytest.mark.parametrize(("value", "warned"), [(1000.0, False), (-1000.0, False), (1.7e9, True), (-1001.0, True)])
@pytest.mark.parametrize("name", ["x", "x_test"])
def test_samples_that_are_probably_not_scaled_are_warned_of(path: Path, name: str, value: float, warned: bool) -> None:
    arrays = {"x": X, "y": Y, "x_test": X, "y_test": Y}
    shard = load_shard(saved(path, **arrays | {name: changed(X, (1, 0, 0, 2), value)}))
    said = shard.warnings()
    assert len(said) == warned
    assert all(f"{path}: {name} reaches {abs(value):.3g} in value 2 of a sample" in line for line in said)


def test_an_empty_list_of_test_data_is_none(path: Path) -> None:
    assert load_shard(saved(path, x=X, y=Y, x_test=np.array([]), y_test=np.array([]))).test_samples == 0


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
        ("test_shard:X", "X is not a function"),
        ("test_shard:", "package.module:function"),
        (":made", "package.module:function"),
    ]:
        with pytest.raises(UsageError, match=says):
            load_shard(source)


MODULE = """
import helper_of_mydata
raised = {raised}
def load():
    return {{"x": [[1, 2], [3, 4]], "y": [0, helper_of_mydata.ONE]}}
def fails():
    raise ValueError("no sensor")
def leaves():
    import sys
    sys.exit("bye")
def ragged():
    return {{"x": [[1, 2], [3]], "y": [0, 1]}}
class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no text")
def speechless():
    raise Speechless
"""


def test_a_module_in_the_working_directory_is_found_and_its_errors_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mydata_of_test.py").write_text(MODULE.format(raised=0))
    (tmp_path / "helper_of_mydata.py").write_text("ONE = 1")
    (tmp_path / "broken_of_test.py").write_text("def load(:")
    (tmp_path / "raises_of_test.py").write_text("raise RuntimeError('no device')")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    shard = load_shard("mydata_of_test:load")
    assert (shard.x.tolist(), shard.y.tolist()) == ([[1, 2], [3, 4]], [0, 1])
    place = re.escape(str(tmp_path))
    for source, says in [
        ("mydata_of_test.py:load", "write mydata_of_test:load, and start where the file is"),
        ("./mydata_of_test:load", "write mydata_of_test:load, and start where the file is"),
        ("../lib/mydata_of_test.py:load", "write mydata_of_test:load, and start where the file is"),
        ("mydata_of_test:speechless", r"the function raised Speechless: \(no text\) \("),
        ("mydata_of_test:fails", rf"the function raised ValueError: no sensor \({place}/mydata_of_test.py:7\)"),
        ("mydata_of_test:leaves", "the function raised SystemExit: bye"),
        ("mydata_of_test:ragged", "x cannot be read as a numpy array"),
        ("broken_of_test:load", "SyntaxError: .*; give a .npz file"),
        ("raises_of_test:load", rf"RuntimeError: no device \({place}/raises_of_test.py:1\); give a .npz file"),
    ]:
        with pytest.raises(UsageError, match=says) as caught:
            load_shard(source)
        assert source in str(caught.value)
    assert [entry for entry in sys.path if entry != str(tmp_path)] == before, "nothing goes before what was there"
    assert sys.path[-1] == str(tmp_path)
    sys.path.remove(str(tmp_path))
