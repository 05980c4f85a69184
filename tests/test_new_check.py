"""`mpsl new` and `mpsl check`: a job that explains itself, and a verdict that names file, key and remedy."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from driving import PATIENCE_S

from broker.command import mpsl
from mpsl import facts
from mpsl.errors import UsageError
from mpsl.job import (
    FleetSection,
    ModelSection,
    OptimizerSection,
    RunSection,
    ScheduleSection,
    SecuritySection,
    WireSection,
    read_job,
)
from mpsl.nn.models import arguments, input_shape
from mpsl.shard import make_shard, read_shard
from orchestrator.commands.new import template

SECTIONS = {
    "run": RunSection("a", 1, 1),
    "model": ModelSection("mlp"),
    "optimizer": OptimizerSection("sgd", 0.1),
    "schedule": ScheduleSection(),
    "wire": WireSection(),
    "fleet": FleetSection(1, 0),
    "security": SecuritySection(),
}
REQUIRED = {"name", "rounds", "batch_size", "lr", "devices", "nodes"}

JOB = """
[run]
name = "small"
rounds = 2
batch_size = 8
[model]
name = "digits-cnn"
cuts = [2, 5, 8]
[optimizer]
name = "sgd"
lr = 0.1
[fleet]
devices = 2
nodes = 2
"""


def test_a_new_job_names_every_key_with_its_default() -> None:
    text = template(Path("a.toml"))
    commented = re.sub(r"(?m)^# (\w+ = )", r"\1", text)
    given: dict[str, dict[str, Any]] = tomllib.loads(commented)
    set_: dict[str, dict[str, Any]] = tomllib.loads(text)
    assert given.keys() == SECTIONS.keys()
    for name, section in SECTIONS.items():
        defaults = facts.plain(section)
        assert given[name].keys() == defaults.keys()
        for key in given[name].keys() - REQUIRED - {"args", "cuts"}:
            assert set_[name].get(key) == defaults[key], key
            assert defaults[key] is not None or key not in set_[name]
    assert given["model"]["args"] == arguments(given["model"]["name"])
    read_job(given, "with every key")


@pytest.mark.parametrize(
    ("file", "name"),
    [("digits.toml", "digits"), ("My Job_2.toml", "my-job-2"), ("日本.toml", "job"), (f"{'x' * 40}.toml", "x" * 24)],
)
def test_the_run_is_named_like_the_file(tmp_path: Path, file: str, name: str) -> None:
    assert run("new", tmp_path / file).exception is None
    assert tomllib.loads((tmp_path / file).read_text())["run"]["name"] == name
    assert run("check", tmp_path / file).return_value == 0


def run(*arguments_: object) -> Result:
    """The command in this process; `return_value` is its exit status."""
    return CliRunner().invoke(mpsl, [str(argument) for argument in arguments_], standalone_mode=False)


def command(*arguments_: object) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-c", "from broker.command import main; main()"]
    return subprocess.run(
        [*program, *map(str, arguments_)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def write_shard(path: Path, samples: int = 16, **changes: np.ndarray) -> None:
    arrays = {"x": np.zeros((samples, 1, 8, 8), np.float32), "y": np.arange(samples, dtype=np.int64) % 10}
    np.savez(path, **(arrays | changes))


def job_and_shards(directory: Path, text: str = JOB, samples: tuple[int, ...] = (16, 20)) -> tuple[Path, Path]:
    job, data = directory / "job.toml", directory / "shards"
    job.write_text(text)
    data.mkdir()
    for number, count in enumerate(samples, start=1):
        write_shard(data / f"dev-{number}.npz", count)
    return job, data


@pytest.mark.slow
def test_the_command_new_then_check(tmp_path: Path) -> None:
    job = tmp_path / "job.toml"
    assert command("new", job).returncode == 0
    text = job.read_text()
    again = command("new", job)
    assert (again.returncode, job.read_text()) == (2, text)
    assert "already exists" in again.stderr
    verdict = command("check", job, "--json")
    assert verdict.returncode == 0, verdict.stderr
    assert json.loads(verdict.stdout.splitlines()[-1])["sound"] is True
    nowhere = command("new", tmp_path / "none" / "job.toml")
    assert nowhere.returncode == 2
    assert "cannot be written" in nowhere.stderr


def test_a_sound_job_shows_parts_edges_and_devices(tmp_path: Path) -> None:
    job, data = job_and_shards(tmp_path, JOB.replace("[optimizer]", "[wire]\nactivations = 'fp16'\n[optimizer]"))
    done = run("check", job, "--data", data, "--json")
    assert done.return_value == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(part["where"], part["blocks"]) for part in found["parts"]] == [
        ("device", [0, 2]), ("hop 1", [2, 5]), ("hop 2", [5, 8]), ("device", [8, 9]),
    ]  # fmt: skip
    assert [part["parameters"] for part in found["parts"]] == [2512, 23232, 72000, 650]
    assert sum(part["compute_share"] for part in found["parts"]) == pytest.approx(1, abs=1e-3)
    first = found["edges"][0]
    assert (first["source"], first["target"], first["shape"]) == ("device", "hop 1", [16, 8, 8])
    assert (first["forward_bytes"], first["backward_bytes"]) == (8 * 1024 * 2, 8 * 1024 * 4)
    assert [(d["id"], d["batches_per_round"], d["smallest_micro_batch"]) for d in found["devices"]] == [
        ("dev-1", 2, 8), ("dev-2", 3, 4),
    ]  # fmt: skip
    assert "hop 2: 72,000 parameters" in done.stdout
    assert any("no shard has x_test" in note for note in found["notes"])


def test_without_cuts_and_without_hops(tmp_path: Path) -> None:
    job, _ = job_and_shards(tmp_path, JOB.replace("cuts = [2, 5, 8]", ""))
    found = json.loads(run("check", job, "--json").stdout.splitlines()[-1])
    assert found["cuts"][0] == 1
    assert found["cuts"][-1] == 8
    assert found["notes"][0].startswith("no cuts: even ones by estimated compute")
    job.write_text(JOB.replace("[2, 5, 8]", "[]"))
    found = json.loads(run("check", job, "--json").stdout.splitlines()[-1])
    assert (found["edges"], [part["where"] for part in found["parts"]]) == ([], ["device"])
    assert any("2 of the 2 nodes are standbys" in note for note in found["notes"])
    assert not any("no cuts" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rounds = 2", "rounds = 0", "rounds = 0 must be at least 1"),
        ("rounds = 2", "round = 2", "did you mean 'rounds'?"),
        ("rounds = 2", "", "rounds"),
        ("digits-cnn", "digit-cnn", "did you mean 'digits-cnn'?"),
        ("[2, 5, 8]", "[2, 5, 9]", "cuts lie within 1 and 8"),
        ("[2, 5, 8]", "[5, 2, 8]", "cuts must rise"),
        ("[2, 5, 8]", "[2]", "one cut"),
        ("cuts =", "args = { drop = 1 }\ncuts =", "did you mean 'dropout'?"),
        ("nodes = 2", "nodes = 1", "2 hops"),
        ("devices = 2", "devices = 2\nquorum = 3", "quorum = 3 is more than devices = 2"),
        ("[optimizer]", "[wire]\ngradients = 'fp31'\n[optimizer]", "did you mean 'fp32'?"),
        ("[run]", "[run", "is not TOML"),
    ],
)
def test_an_unsound_job(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in JOB
    job, _ = job_and_shards(tmp_path, JOB.replace(old, new, 1))
    done = run("check", job, "--json")
    assert done.return_value == 2
    assert str(job) in done.stderr
    assert said in done.stderr
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert verdict["sound"] is False
    assert said in verdict["problems"][0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": np.full((16, 1, 8, 8), np.nan, np.float32)}, "x has NaN or infinity, first in sample 0"),
        ({"x": np.zeros((16, 1, 9, 9), np.float32)}, "the model takes (1, 8, 8)"),
        ({"x": np.full((16, 1, 8, 8), 0.1)}, "x = x.astype(numpy.float32)"),
        ({"y": np.full(16, 10)}, "label 10, the model has num_classes = 10"),
        ({"y": np.full(16, -1)}, "labels count from 0"),
        ({"y": np.zeros(15, np.int64)}, "the numbers must be equal"),
        ({"x_test": np.zeros((1, 1, 8, 8), np.float32)}, "x_test and y_test go together"),
        ({"z": np.zeros(1)}, "unknown array 'z'"),
    ],
)
def test_an_unsound_shard(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    job, data = job_and_shards(tmp_path)
    write_shard(data / "dev-2.npz", **changes)
    done = run("check", job, "--data", data)
    assert done.return_value == 2
    assert f"{data / 'dev-2.npz'}: " in done.stderr
    assert said in done.stderr


def test_samples_that_are_probably_not_scaled_are_noted(tmp_path: Path) -> None:
    job, data = job_and_shards(tmp_path)
    write_shard(data / "dev-2.npz", x=np.full((16, 1, 8, 8), 1.7e9, np.float32))
    done = run("check", job, "--data", data)
    assert done.return_value == 0
    assert f"note: {data / 'dev-2.npz'}: x reaches 1.7e+09 in value 0 of a sample and 63 more" in done.stdout


MLP = (
    JOB.replace("digits-cnn", "mlp")
    .replace("cuts = [2, 5, 8]", "args = { batch_norm = true }")
    .replace("nodes = 2", "nodes = 0")
)


@pytest.mark.parametrize("steps", ["batch_size = 1", "batch_size = 8\nmicro_batches = 5"])
def test_batches_that_no_batch_norm_can_train_on(tmp_path: Path, steps: str) -> None:
    job, _ = job_and_shards(tmp_path, MLP.replace("batch_size = 8", steps))
    done = run("check", job)
    assert done.return_value == 2
    assert "make micro-batches of 1 sample: the BatchNorm" in done.stderr
    assert str(job) in done.stderr


def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    job, data = job_and_shards(tmp_path, MLP.replace("devices = 2", "devices = 5"))
    for number, samples in enumerate((16, 17, 18, 16), start=1):
        write_shard(data / f"dev-{number}.npz", samples, x=np.zeros((samples, *input_shape("mlp")), np.float32))
    (data / "dev-4.npz").write_bytes(b"PK no zip")
    done = run("check", job, "--data", data)
    assert done.return_value == 2
    assert len(done.stderr.splitlines()) == 3
    assert (
        "dev-2 has 17 samples; batch_size = 8 and micro_batches = 1 leave it a micro-batch of 1 sample" in done.stderr
    )
    assert "fleet.devices = 5, but there are 4 shards" in done.stderr
    assert "it is not a complete .npz file" in done.stderr
    assert "sound" not in done.stdout


def test_a_file_whose_stem_is_no_id(tmp_path: Path) -> None:
    job, data = job_and_shards(tmp_path)
    write_shard(data / "Device One.npz")
    done = run("check", job, "--data", data)
    assert done.return_value == 2
    assert "'Device One' is not an id" in done.stderr


def test_a_model_without_batch_norm_may_see_one_sample(tmp_path: Path) -> None:
    text = JOB.replace("digits-cnn", "lenet5").replace("cuts", "args = { image_size = 8 }\ncuts")
    job, data = job_and_shards(tmp_path, text.replace("[2, 5, 8]", "[1, 2, 3]"), (17, 9))
    done = run("check", job, "--data", data)
    assert done.return_value == 0, done.stderr


def test_a_shard_survives_the_way_through_a_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((5, 3), np.float32)
    y = np.arange(5)
    np.savez_compressed(tmp_path / "dev-1.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    shard = read_shard(tmp_path / "dev-1.npz")
    assert (shard.samples, shard.test_samples) == (5, 2)
    assert np.array_equal(shard.x, x)
    assert make_shard("made", {"x": x, "y": y}).test_samples == 0
    with pytest.raises(UsageError, match=r"made: x is empty"):
        make_shard("made", {"x": x[:0], "y": y[:0]})


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "one array", "objects", "missing"])
def test_a_file_that_is_no_shard(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "dev-1.npz"
    write_shard(path)
    whole = path.read_bytes()
    match damage:
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("x,y\n")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "one array":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        case "objects":
            np.savez(path, x=np.array([{}], dtype=object), y=np.zeros(1, np.int64))
        case "missing":
            path.unlink()
    with pytest.raises(UsageError, match=re.escape(f"{path}: ")) as caught:
        read_shard(path)
    assert "unsafe" not in str(caught.value)
