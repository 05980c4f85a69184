"""The learning rate over a run: its formulas, that torch's schedulers agree, and that every part steps with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fleet import make_shards, run_fleet
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker.engines.engine import BrokerProcess
from mpsl.errors import UsageError
from mpsl.job import ScheduleSection, read_job
from mpsl.learning_rate import factor, rates_of
from mpsl.messages import Ticket


def job_with(schedule: dict[str, Any], optimizer: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "run": {"name": "rates", "rounds": 4, "batch_size": 8, "local_epochs": 2},
        "model": {"name": "mlp", "args": {"hidden": [8, 8], "image_size": 4}, "cuts": [1, 2]},
        "optimizer": optimizer or {"name": "sgd", "lr": 0.1, "momentum": 0.9},
        "schedule": schedule,
        "fleet": {"devices": 2, "nodes": 1},
    }


def rates(schedule: dict[str, Any], batches: int = 6) -> list[float]:
    """The rate of every batch of a run."""
    found = rates_of(read_job(job_with(schedule), "job"), batches)
    return [
        found.at(Ticket(1, round, "dev-1", 1, epoch, batch, 0, 1))
        for round in range(1, 5)
        for epoch in range(2)
        for batch in range(batches // 2)
    ]


def test_a_constant_rate_is_that_of_the_optimizer() -> None:
    assert rates({}) == [0.1] * 24


def test_by_round_every_batch_of_a_round_has_its_rate() -> None:
    found = rates({"name": "linear"})
    assert found == pytest.approx([0.1] * 6 + [0.075] * 6 + [0.05] * 6 + [0.025] * 6)
    assert rates({"name": "step", "step_rounds": 2, "gamma": 0.5}) == pytest.approx([0.1] * 12 + [0.05] * 12)


def test_by_batch_it_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24, eta_min=0.01)
    for rate in rates({"name": "cosine", "by": "batch", "end": 0.1}):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_the_warm_up_rises_to_the_whole_rate() -> None:
    found = rates({"warmup_rounds": 1.0, "by": "batch"})
    assert found[:6] == pytest.approx([0.1 * n / 6 for n in range(1, 7)])
    assert found[6:] == [0.1] * 18
    assert rates({"warmup_rounds": 2.0})[::6] == pytest.approx([0.05, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "linear"])
def test_a_rate_never_leaves_its_bounds(name: Any) -> None:
    for rounds in (1, 3):
        schedule = ScheduleSection(name, warmup_rounds=1.5, end=0.2)
        found = [factor(schedule, rounds, done / 10, 0.1) for done in range(10 * rounds)]
        assert all(0 < each <= 1 for each in found)


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"end": 2.0}, "end = 2.0 must be from 0 to 1"),
        ({"warmup_rounds": -1.0}, "warmup_rounds = -1.0"),
        ({"step_rounds": 0}, "step_rounds = 0 must be at least 1"),
    ],
)
def test_a_bad_schedule_is_refused(schedule: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_job(job_with(schedule), "job")


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"name": "adam", "lr": 0.1, "nesterov": True}, "belong to sgd"),
        ({"name": "sgd", "lr": 0.1, "nesterov": True}, "need optimizer.momentum"),
        (
            {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0.1},
            "takes no optimizer.dampening",
        ),
        ({"name": "adamw", "lr": 0.1, "momentum": 0.9}, "momentum belongs to sgd and rmsprop"),
    ],
)
def test_settings_that_an_optimizer_does_not_take(optimizer: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read_job(job_with({}, optimizer), "job")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [
        ({"name": "adamw", "lr": 0.01, "weight_decay": 0.1}, {"name": "cosine", "by": "batch", "warmup_rounds": 0.5}),
        ({"name": "rmsprop", "lr": 0.005, "momentum": 0.9}, {"name": "step", "step_rounds": 1, "gamma": 0.5}),
        ({"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": True}, {"name": "linear", "by": "batch", "end": 0.1}),
    ],
)
def test_runs_are_bit_identical(
    mosquitto: BrokerProcess, tmp_path: Path, optimizer: dict[str, Any], schedule: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    job = job_with(schedule, optimizer)
    shards = make_shards([19, 11], (1, 4, 4), 10)
    outcome = run_fleet(mosquitto.url, job, shards, tmp_path, 1)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [entry["devices"] for entry in outcome.summary["rounds"]]
    expected, _ = oracle(setting_of(job), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
