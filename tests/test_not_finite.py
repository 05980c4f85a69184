"""Updates that are not finite: never folded, their device left out by name, and every committed model finite."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scenarios import Scenario
from simulated import check_result, run_and_check, simulate

from compute_node.performer import HopPerformer
from device_agent.device_training import correct
from device_agent.performer import DevicePerformer
from mpsl.machines.jobs import CheckCopy, Export
from mpsl.machines.orchestrator.outliers import outliers, suspects
from mpsl.messages import Update
from mpsl.nn.part import state_tensors

THREE = Scenario(3, samples=(9, 7, 8), tests=(4, 3, 4), rounds=3, quorum=1)


UNLIKE = Scenario(3, samples=(12, 10, 11), tests=(4, 3, 4), rounds=4, hidden=(16, 16, 16))


def assert_left_out_from_the_second_round_on(outcome: Any) -> None:
    """dev-2 contributes to the first round only, and the model is exact over those who do."""
    assert outcome.summary["state"] == "done", outcome.trace()
    assert [set(entry["devices"]) for entry in outcome.summary["rounds"]] == [
        {"dev-1", "dev-2", "dev-3"}, {"dev-1", "dev-3"}, {"dev-1", "dev-3"}
    ]  # fmt: skip
    check_result(outcome)
    model = load_file(outcome.out / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e27, -3e38])
def test_an_update_that_is_not_finite_is_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    performed = DevicePerformer.perform

    def perform(self: DevicePerformer, job: Any, session: Any) -> Any:
        if self._id == "dev-2" and isinstance(job, Export) and job.version == 2:
            self.sessions[session]._arrays[0][0].reshape(-1)[-1] = value
        return performed(self, job, session)

    monkeypatch.setattr(DevicePerformer, "perform", perform)
    outcome = run_and_check(THREE, tmp_path)
    assert_left_out_from_the_second_round_on(outcome)
    assert "the update of dev-2 is not finite" in outcome.simulation.trace.text()


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e27])
def test_a_copy_at_a_seat_that_is_not_finite_is_not_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    performed = HopPerformer.perform

    def perform(self: HopPerformer, job: Any, session: Any) -> Any:
        if isinstance(job, CheckCopy) and (job.device, job.round) == ("dev-2", 2):
            _, tensor = next(iter(state_tensors(self.sessions[session].copies["dev-2"].part)))
            with torch.no_grad():
                tensor.view(-1)[0] = value
        return performed(self, job, session)

    monkeypatch.setattr(HopPerformer, "perform", perform)
    outcome = run_and_check(THREE, tmp_path)
    assert_left_out_from_the_second_round_on(outcome)
    assert "the copy of dev-2 is not finite" in outcome.simulation.trace.text()


def test_a_run_that_diverges_fails_and_says_whose_update_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Scenario.job

    def diverging(self: Scenario) -> dict[str, Any]:
        content = job(self)
        return {**content, "optimizer": {**content["optimizer"], "lr": 1e20}}

    monkeypatch.setattr(Scenario, "job", diverging)
    outcome = simulate(Scenario(3, batch_size=2, quorum=2), tmp_path)
    assert outcome.summary["state"] == "failed"
    assert "not finite" in outcome.summary["reason"]
    assert "lr" in outcome.summary["reason"]
    assert not (tmp_path / "model.safetensors").exists()


def unscaled(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """One feature of dev-2 has values from `value` on."""
    shards = Scenario.shards

    def with_large_feature(self: Scenario) -> dict[str, Any]:
        found = shards(self)
        for x in (found["dev-2"].x, found["dev-2"].x_test):
            x[:, 1] = value + np.arange(len(x))
        return found

    monkeypatch.setattr(Scenario, "shards", with_large_feature)


@pytest.mark.parametrize("seed", [3, 5])
def test_a_device_whose_features_are_not_scaled_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    unscaled(monkeypatch, 1.7e9)
    outcome = simulate(replace(UNLIKE, seed=seed, quorum=2), tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert [set(entry["devices"]) for entry in outcome.summary["rounds"]] == [{"dev-1", "dev-3"}] * UNLIKE.rounds
    assert "not finite, or too large" in outcome.summary["rounds"][0]["left_out"]["dev-2"]


@pytest.mark.parametrize("seed", [3, 5])
def test_the_first_device_with_a_loss_far_from_the_others_is_named_when_these_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    unscaled(monkeypatch, 1e4)
    outcome = simulate(replace(UNLIKE, seed=seed), tmp_path)
    assert outcome.summary["state"] == "failed", outcome.trace()
    said = outcome.summary["reason"]
    assert "left out: dev-" in said
    assert "far from the others in round 1: dev-2 (training loss" in said
    assert "in round 2" not in said
    model = load_file(tmp_path / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())


def update(loss: float) -> Update:
    """An update with this mean loss."""
    return Update(7, 1, batches=1, samples=4, loss=loss * 4, seconds=1.0)


def test_only_a_loss_far_from_those_of_at_least_two_others_is_an_outlier() -> None:
    assert list(outliers({"a": update(1.0), "b": update(2.0), "c": update(1600.0)})) == ["c"]
    assert outliers({"a": update(1.0), "b": update(2.0), "c": update(1400.0)}) == {}
    assert outliers({"a": update(1.0), "b": update(1600.0)}) == {}
    assert outliers({"a": update(0.0), "b": update(0.0), "c": update(5.0)}) == {}
    assert outliers({}) == {}


def test_outliers_are_suspects_until_there_are_none() -> None:
    even = {id: update(1.0) for id in ("a", "b", "c")}
    first = suspects(even | {"c": update(1e6)}, "")
    assert "in round 7: c (training loss 1e+06, 1 in the median of the others)" in first
    assert suspects(even | {"a": update(1e9)}, first) == first
    assert suspects(even, first) == ""


def test_an_output_that_is_not_finite_predicts_nothing() -> None:
    nan, inf = float("nan"), float("inf")
    output = torch.tensor([[0.0, 1.0], [nan, 1.0], [0.0, inf], [-inf, 0.0], [1.0, 0.0]])
    assert correct(output, torch.tensor([1, 0, 1, 1, 0])) == 2
