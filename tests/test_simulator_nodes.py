"""Nodes that die, hang and come back: the run goes on under a new term with the oracle's bits, or says what lacks."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scenarios import Scenario
from simulated import Outcome, World, run_and_check

from mpsl.machines.jobs import Backward, WorkerJob
from mpsl.sim.faults import Faults, InjectedFault

pytestmark = pytest.mark.slow
THREE = Scenario(seed=0, hops=2, samples=(9, 6, 11), tests=(4, 0, 3), hidden=(4, 4, 4, 4), rounds=3, quorum=1)
STEPS = [12, 20, 33, 50, 70, 95, 130]


def befall(scenario: Scenario, *injected: InjectedFault) -> Scenario:
    return replace(scenario, faults=Faults(injected=injected))


def seats_of(outcome: Outcome) -> list[dict[str, str]]:
    return [term["seats"] for term in outcome.summary["terms"]]


@pytest.mark.parametrize("seconds", [0.1, 5.0, 30.0])
@pytest.mark.parametrize("after", STEPS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_node_that_comes_back_takes_its_seat_again(tmp_path: Path, after: int, seconds: float, replicas: int) -> None:
    scenario = replace(THREE, seed=after, replicas=replicas)
    outcome = run_and_check(befall(scenario, InjectedFault("crash", "node-2", after, seconds)), tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert all(seats == seats_of(outcome)[0] for seats in seats_of(outcome))


@pytest.mark.parametrize("kind", ["crash", "freeze"])
@pytest.mark.parametrize("after", STEPS)
def test_a_standby_takes_the_seat_of_a_lost_node(tmp_path: Path, after: int, kind: Any) -> None:
    seconds = math.inf if kind == "crash" else 3000.0
    scenario = befall(replace(THREE, seed=after, standbys=1), InjectedFault(kind, "node-2", after, seconds))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    if len(seats_of(outcome)) > 1:
        assert set(seats_of(outcome)[-1].values()) == {"node-1", "node-3"}
        assert "node-2" in outcome.summary["terms"][-1]["reason"]


@pytest.mark.parametrize("after", STEPS[2:])
def test_without_cuts_the_chain_is_cut_anew_over_the_nodes_that_are_left(tmp_path: Path, after: int) -> None:
    scenario = befall(replace(THREE, seed=after, is_cut=False), InjectedFault("crash", "node-2", after, math.inf))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    if len(seats_of(outcome)) > 1:
        assert seats_of(outcome)[-1] == {"1_0": "node-1"}
        assert len(outcome.summary["rounds"][-1]["cuts"]) == 2


@pytest.mark.parametrize("after", STEPS[2:5])
def test_a_run_without_a_node_for_a_seat_waits_and_then_says_which_is_missing(tmp_path: Path, after: int) -> None:
    scenario = befall(replace(THREE, seed=after), InjectedFault("crash", "node-2", after, math.inf))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "failed"
    assert "node-2 (seat 2_0) is lost" in outcome.summary["reason"]
    assert "patience_s = 60 s" in outcome.summary["reason"]
    assert "node-2 or a standby for seat 2_0" in outcome.summary["reason"]
    assert outcome.ending.seconds > 60


@pytest.mark.parametrize("nodes", [("node-1", "node-2"), ("node-2", "node-2"), ("node-1", "orch")])
@pytest.mark.parametrize("after", STEPS[1:4])
def test_two_losses_are_survived(tmp_path: Path, nodes: tuple[str, str], after: int) -> None:
    first, second = nodes
    faults = (
        InjectedFault("crash", first, after, 3.0),
        InjectedFault("crash" if second != "orch" else "cut", second, after + 9, 2.0),
    )
    outcome = run_and_check(befall(replace(THREE, seed=after, standbys=1), *faults), tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()


def test_a_node_whose_job_never_ends_is_replaced_by_a_standby(tmp_path: Path) -> None:
    """Its telemetry goes on, so it is what it does not forget that gives it away."""

    def duration(process: str, job: WorkerJob) -> float:
        return math.inf if process == "node-1" and isinstance(job, Backward) else 0.01

    outcome = run_and_check(replace(THREE, standbys=1), tmp_path, duration)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert seats_of(outcome)[-1]["1_0"] == "node-3"
    assert "has not forgotten" in outcome.summary["terms"][-1]["reason"]


def test_a_node_says_which_part_it_still_holds(tmp_path: Path) -> None:
    scenario = befall(replace(THREE, rounds=4, slowest_job_s=0.2), InjectedFault("crash", "node-2", 70, 0.5))
    world = World(scenario)
    outcome = run_and_check(scenario, tmp_path, world=world)
    assert outcome.summary["state"] == "done"
    assert len(seats_of(outcome)) == 2
    kept = [line for line in world.simulation.trace.text().splitlines() if "node-1" in line and "held=" in line]
    state = world.orchestrators["orch"].run_state
    assert state.held_digests.keys() == {"1_0"}, kept
    assert state.held_digests["1_0"] == state.part_digests["1_0"]


def test_a_round_that_was_committed_before_the_loss_is_not_done_again(tmp_path: Path) -> None:
    """The node dies in the evaluation: the round stands, and its evaluation is made under the next term."""
    for after in range(60, 140, 4):
        out = tmp_path / str(after)
        outcome = run_and_check(befall(THREE, InjectedFault("crash", "node-2", after, 1.0)), out)
        assert [entry["round"] for entry in outcome.summary["rounds"]] == [1, 2, 3]
        assert all(entry["accuracy"] is not None for entry in outcome.summary["rounds"])


def test_a_device_that_appears_in_the_middle_of_a_run_takes_part(tmp_path: Path) -> None:
    scenario = replace(THREE, rounds=8, slowest_job_s=0.3)
    world = World(scenario)
    fleet = scenario.devices
    world.add_orchestrator(tmp_path, 0.0)
    world.add_nodes()
    for id in fleet[:2]:
        world.add_device(id, 0.0)
    world.add_device(fleet[2], 20.0)
    world.job_changes = {"devices": 2}
    world.run()
    summary = world.orchestrators["orch"].summary
    assert summary["state"] == "done", world.simulation.trace.text()
    assert fleet[2] not in summary["rounds"][0]["devices"]
    assert fleet[2] in summary["rounds"][-1]["devices"]
