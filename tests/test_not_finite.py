"""Updates that are not finite: never folded, their device left out by name, and every committed model finite."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scenarios import Scenario
from simulated import check_result, run_and_check, simulate

from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.machines.jobs import CheckCopy, Export
from mpsl.nn.part import state_tensors

THREE = Scenario(3, samples=(9, 7, 8), tests=(4, 3, 4), rounds=3, quorum=1)


def assert_left_out_from_the_second_round_on(outcome: Any) -> None:
    """dev-2 contributes to the first round only, and the model is exact over those who do."""
    assert outcome.summary["state"] == "done", outcome.trace()
    assert [set(entry["devices"]) for entry in outcome.summary["rounds"]] == [
        {"dev-1", "dev-2", "dev-3"}, {"dev-1", "dev-3"}, {"dev-1", "dev-3"}
    ]  # fmt: skip
    check_result(outcome)
    model = load_file(outcome.out / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.values())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
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


def test_a_copy_at_a_seat_that_is_not_finite_is_not_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performed = HopPerformer.perform

    def perform(self: HopPerformer, job: Any, session: Any) -> Any:
        if isinstance(job, CheckCopy) and (job.device, job.round) == ("dev-2", 2):
            _, tensor = next(iter(state_tensors(self.sessions[session].copies["dev-2"].part)))
            with torch.no_grad():
                tensor.view(-1)[0] = float("nan")
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
