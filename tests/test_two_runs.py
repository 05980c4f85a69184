"""Two runs at a time on one net: nodes serve both, devices one after the other, and both end exact.

Where messages are late, each run gets hold of one of the two devices: then one run has to give way.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scenarios import Scenario
from simulated import World

from mpsl.machines.hop import HopMachine
from mpsl.sim.faults import Faults

TWO_DEVICES = Scenario(5, samples=(9, 7), tests=(4, 3), rounds=2)


@pytest.mark.parametrize(("seed", "late"), [*((seed, 0.0) for seed in range(6)), *((seed, 0.5) for seed in range(20))])
def test_two_runs_that_want_the_same_fleet_both_end_and_in_the_rosters_order_with_the_same_bits(
    tmp_path: Path, seed: int, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Scenario.job

    def deterministic(self: Scenario) -> dict[str, Any]:
        content = job(self)
        return {**content, "run": {**content["run"], "deterministic": True}}

    monkeypatch.setattr(Scenario, "job", deterministic)
    world = World(replace(TWO_DEVICES, seed=seed, faults=Faults(late=late, longest_delay_s=0.5)), once=False)
    world.add_orchestrator(tmp_path / "first", 0.0, "orch-1")
    world.add_orchestrator(tmp_path / "second", 0.0, "orch-2")
    world.add_devices_and_nodes()
    world.run()
    summaries = {id: machine.summary for id, machine in world.orchestrators.items()}
    assert len(summaries) == 2
    ends = [(said["state"], said["reason"]) for said in summaries.values()]
    assert ends == [("done", "")] * 2, world.simulation.trace.text()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(list(entry["devices"]) == ["dev-1", "dev-2"] for said in summaries.values() for entry in said["rounds"])
    for process in world.simulation.processes.values():
        if isinstance(process.machine, HopMachine):
            assert not process.machine.sessions


@pytest.mark.parametrize("seed", [3, 14, 28])
def test_three_runs_end_one_after_the_other(tmp_path: Path, seed: int) -> None:
    """With seeds 14 and 28 a run gives way and finds the same node again, which had left it meanwhile."""
    scenario = Scenario(seed, samples=(9, 7, 6, 5), tests=(4, 3, 2, 2), rounds=1)
    world = World(replace(scenario, faults=Faults(late=0.5, longest_delay_s=0.5)), once=False)
    for number, at in enumerate((0.0, 0.0, 0.3)):
        world.add_orchestrator(tmp_path / str(number), at, f"orch-{number}")
    world.add_devices_and_nodes()
    world.run()
    ends = [(machine.summary["state"], machine.summary["reason"]) for machine in world.orchestrators.values()]
    assert ends == [("done", "")] * 3, world.simulation.trace.text()
