"""The real data sets, the shards made of them, and the two commands that show and make them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mpsl.errors import UsageError
from orchestrator.commands.data import data
from orchestrator.commands.models import models
from orchestrator.datasets import Dataset, datasets, fashion_mnist, load
from orchestrator.shards import split, write


def test_both_data_sets_are_there() -> None:
    assert datasets.names() == ["digits", "fashion-mnist"]
    with pytest.raises(UsageError, match="did you mean 'digits'"):
        load("digit", 0)


def test_digits_hold_out_a_fifth_of_every_label() -> None:
    digits = load("digits", 0)
    assert (digits.x.shape, digits.x_test.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert (digits.x.min(), digits.x.max()) == (0.0, 1.0)
    whole = np.bincount(digits.y) + np.bincount(digits.y_test)
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(np.bincount(digits.y_test) - whole / 5).max() < 1
    assert np.array_equal(load("digits", 0).x_test, digits.x_test)
    assert not np.array_equal(load("digits", 1).x_test, digits.x_test)


def test_images_are_padded_all_around() -> None:
    digits, padded = load("digits", 0), load("digits", 0, image_size=11)
    assert padded.x.shape == (1437, 1, 11, 11)
    assert np.array_equal(padded.x[:, :, 1:9, 1:9], digits.x)
    assert padded.x.sum() == digits.x.sum()
    with pytest.raises(UsageError, match="8×8 and can only be padded"):
        load("digits", 0, image_size=7)


def idx(path: Path, array: np.ndarray, header: bytes | None = None, tail: bytes = b"") -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    start = bytes([0, 0, 8, array.ndim]) if header is None else header
    path.write_bytes(gzip.compress(start + sizes + array.tobytes() + tail))


def idx_files(directory: Path) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = {}
    for part, samples in (("train", 5), ("t10k", 3)):
        arrays[f"{part}-images-idx3-ubyte.gz"] = generator.integers(0, 256, (samples, 4, 4), np.uint8)
        arrays[f"{part}-labels-idx1-ubyte.gz"] = generator.integers(0, 10, samples, np.uint8)
    for name, array in arrays.items():
        idx(directory / name, array)
    return arrays


def test_fashion_mnist_reads_idx_files(tmp_path: Path) -> None:
    arrays = idx_files(tmp_path)
    read = fashion_mnist.read(tmp_path)
    assert np.array_equal(read.x, arrays["train-images-idx3-ubyte.gz"][:, None] / np.float32(255))
    assert np.array_equal(read.y_test, arrays["t10k-labels-idx1-ubyte.gz"])


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.unlink(), "sudo apt-get install dataset-fashion-mnist"),
        (lambda path: path.write_bytes(b"no gzip"), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-12]), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:12] + b"\xff" * 9), "cannot be read"),
        (lambda path: idx(path, np.zeros((5, 4, 4), np.uint8), b"\0\0\x0d\3"), "not an IDX file"),
        (lambda path: idx(path, np.zeros((5, 16), np.uint8)), "not an IDX file"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\3\0\0")), "not an IDX file"),
        (lambda path: idx(path, np.zeros((5, 4, 4), np.uint8), tail=b"\0"), "80 bytes, but holds 81"),
        (lambda path: idx(path, np.zeros((4, 4, 4), np.uint8)), "4 images but 5 labels in train"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path: Path, damage: object, text: str) -> None:
    idx_files(tmp_path)
    damage(tmp_path / "train-images-idx3-ubyte.gz")  # type: ignore[operator]
    with pytest.raises(UsageError, match=text) as error:
        fashion_mnist.read(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.skipif(not fashion_mnist.DIRECTORY.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_installed_fashion_mnist() -> None:
    fashion = load("fashion-mnist", 0)
    assert (fashion.x.shape, fashion.x_test.shape) == ((60000, 1, 28, 28), (10000, 1, 28, 28))
    assert np.bincount(fashion.y_test).tolist() == [1000] * 10


@pytest.mark.parametrize("non_iid", [None, 0.1])
def test_shards_hold_every_sample_once_with_its_own_label(tmp_path: Path, non_iid: float | None) -> None:
    x = np.arange(50, dtype=np.float32).reshape(50, 1, 1, 1)
    y = np.arange(50) % 7
    write(split(Dataset(x, y, x[:20] + 100, y[:20]), 4, 0, non_iid), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"dev-{number}.npz" for number in (1, 2, 3, 4)]
    shards = [np.load(tmp_path / f"dev-{number}.npz") for number in (1, 2, 3, 4)]
    train = np.concatenate([shard["x"].ravel() for shard in shards])
    test = np.concatenate([shard["x_test"].ravel() for shard in shards])
    assert np.array_equal(np.sort(train), x.ravel())
    assert np.array_equal(np.sort(test), x[:20].ravel() + 100)
    assert np.array_equal(np.concatenate([shard["y"] for shard in shards]), train.astype(np.int64) % 7)
    assert np.array_equal(np.concatenate([shard["y_test"] for shard in shards]), (test - 100).astype(np.int64) % 7)
    assert {(shard["x"].dtype.name, shard["y"].dtype.name) for shard in shards} == {("float32", "int64")}
    assert [len(shard["y_test"]) for shard in shards] == [5, 5, 5, 5]


def test_shards_of_another_split_are_not_mixed_in(tmp_path: Path) -> None:
    digits = load("digits", 0)
    write(split(digits, 3, 0), tmp_path)
    write(split(digits, 3, 1), tmp_path)
    with pytest.raises(UsageError, match=r"already holds dev-3\.npz"):
        write(split(digits, 2, 0), tmp_path)


def test_a_failed_write_keeps_the_earlier_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = load("digits", 0)
    write(split(digits, 1, 0), tmp_path)
    before = (tmp_path / "dev-1.npz").read_bytes()

    def full(file: object, **arrays: np.ndarray) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UsageError, match="No space left"):
        write(split(digits, 1, 1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dev-1.npz"]
    assert (tmp_path / "dev-1.npz").read_bytes() == before


def test_the_data_command_writes_shards_and_ends_with_json(tmp_path: Path) -> None:
    arguments = [
        "digits",
        "--devices",
        "3",
        "--non-iid",
        "0.1",
        "--seed",
        "7",
        "--out",
        str(tmp_path / "new"),
        "--json",
    ]
    result = CliRunner().invoke(data, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    summary = json.loads(result.stdout.splitlines()[-1])
    assert [row["id"] for row in summary["devices"]] == ["dev-1", "dev-2", "dev-3"]
    for row in summary["devices"]:
        shard = np.load(row["file"])
        assert (len(shard["y"]), len(shard["y_test"])) == (row["samples"], row["test_samples"])
        assert np.bincount(shard["y"], minlength=10).tolist() == row["labels"]
    assert "samples" in CliRunner().invoke(data, [*arguments[:-1]], catch_exceptions=False).stdout


def test_the_models_command_shows_arguments_and_blocks() -> None:
    result = CliRunner().invoke(models, ["--json"], catch_exceptions=False)
    rows = {row["name"]: row for row in json.loads(result.stdout.splitlines()[-1])["models"]}
    assert rows["vgg19"]["parameters"] == sum(block["parameters"] for block in rows["vgg19"]["blocks"]) == 143_667_240
    assert rows["mlp"]["arguments"]["hidden"] == [128, 128, 128, 128]
    assert "0 Conv2d+BatchNorm2d+ReLU" in CliRunner().invoke(models, [], catch_exceptions=False).stdout
