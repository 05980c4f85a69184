"""What `mpsl bench wire` makes of the summaries; its runs are those of everyone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import wire
from benchmarks.wire import REFERENCE_CODECS, TASKS, Task, _against, _best, _halved, _measured, _pairs
from mpsl.errors import UsageError
from mpsl.job import Job, WireSection, read_job
from orchestrator.datasets import fashion_mnist


def summary(accuracy: float, up: int, down: int, last: int) -> dict[str, Any]:
    rounds = [{"samples": 10, "bytes": {"device_up": up, "device_down": down}}] * 2
    return {
        "accuracy": accuracy,
        "rounds": [*rounds, {"samples": 10, "bytes": {"device_up": last, "device_down": last}}],
    }


def test_the_last_round_is_left_out_because_it_is_evaluated() -> None:
    measured = _measured([summary(0.9, 4000, 2000, 10**9), summary(0.8, 4000, 2000, 10**9)], local_epochs=2)
    assert (measured["up"], measured["down"]) == (200, 100)
    assert measured["accuracy"] == pytest.approx(0.85)
    assert measured["spread"] == pytest.approx(0.1)


def test_each_way_and_both_are_compared() -> None:
    plain, coded = _measured([summary(0.9, 4000, 2000, 0)], 1), _measured([summary(0.896, 400, 500, 0)], 1)
    against = _against(coded, plain)
    assert (against["fewer_up"], against["fewer_down"]) == (10, 4)
    assert against["fewer"] == pytest.approx(6000 / 900)
    assert against["points"] == pytest.approx(-0.4)


def test_the_best_has_the_fewest_bytes_of_those_that_cost_no_task_too_much() -> None:
    def entry(fewer: float, points: float) -> dict[str, float]:
        return {"fewer": fewer, "points": points}

    first = {REFERENCE_CODECS: entry(1, 0), "a/a": entry(8, -0.4), "b/b": entry(9, 0.2), "c/c": entry(20, 1.0)}
    second = {REFERENCE_CODECS: entry(1, 0), "a/a": entry(8, 0.0), "b/b": entry(7, 0.0), "c/c": entry(20, -0.6)}
    assert _best(list(first), [first]) == "c/c"
    assert _best(list(first), [first, second]) == "a/a"


def test_pairs_are_read_and_refused_before_anything_runs() -> None:
    assert _pairs("int8/int8, huffman:3/topk:0.1,") == ["int8/int8", "huffman:3/topk:0.1"]
    for bad in ("int8", "int9/int8", "int8/"):
        with pytest.raises(UsageError):
            _pairs(bad)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_is_a_sound_job_of_its_data(task: Task) -> None:
    if task.name != "digits" and not fashion_mnist.DIRECTORY.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    job = task.job("affine:3/int8", 1, 2)
    assert (job.hops, job.run.seed, job.run.evaluate_every) == (task.hops, 1, 2)
    assert job.wire == WireSection("affine:3", "int8")
    assert task.dataset().x.shape[1:] == ((1, 8, 8) if task.name == "digits" else (1, 14, 14))


def test_data_that_are_missing_are_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object) -> None:
        raise AssertionError("it has started")

    monkeypatch.setattr(fashion_mnist, "DIRECTORY", tmp_path)
    monkeypatch.setattr(asyncio, "run", started)
    result = CliRunner().invoke(wire.command, [])
    assert isinstance(result.exception, UsageError)
    assert "apt-get install dataset-fashion-mnist" in str(result.exception)


def test_codecs_take_turns_behind_the_slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[str, int]] = []

    async def train(job: Job) -> dict[str, Any]:
        trained.append((job.wire.activations, job.run.seed))
        accuracies = (0.9, 0.96, 0.97) if job.wire.activations == "int8" else (0.9, 0.94)
        return {"rounds": [{"accuracy": each, "seconds": len(trained)} for each in accuracies]}

    @asynccontextmanager
    async def fleet(*_: Any) -> AsyncIterator[Any]:
        yield train

    monkeypatch.setattr(wire, "_fleet", fleet)
    found = asyncio.run(wire._race(TASKS[0].dataset(), [REFERENCE_CODECS, "int8/int8"], 3, "auto", "8mbit/20ms"))
    assert trained == [(codec, seed) for seed in range(3) for codec in ("fp32", "int8")]
    assert found == {
        REFERENCE_CODECS: {"seconds": [None] * 3, "median": None},
        "int8/int8": {"seconds": [4, 8, 12], "median": 8},
    }


def test_pictures_are_halved_by_means_of_four() -> None:
    assert _halved(np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]


def test_weights_travel_in_one_of_three_codecs() -> None:
    job = {
        "run": {"name": "a", "rounds": 1, "batch_size": 1},
        "model": {"name": "mlp"},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "fleet": {"devices": 1, "nodes": 1},
    }
    assert read_job(job, "job").wire.weights == "fp32"
    for spec in ("fp32", "fp16", "int8"):
        assert read_job({**job, "wire": {"weights": spec}}, "job").wire.weights == spec
    with pytest.raises(UsageError, match=r"wire\.weights"):
        read_job({**job, "wire": {"weights": "int4"}}, "job")
