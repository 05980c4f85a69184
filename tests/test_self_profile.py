"""A run without cuts: everyone measures, the plan follows what they say, and nothing of it can stop the run."""

import json
from pathlib import Path
from typing import Any

import pytest
from scenarios import Scenario
from self_profiles import Surveyed, WithoutCuts, ran
from simulated import TOPICS, simulate

from mpsl.errors import RunFailed, UsageError
from mpsl.machines.effects import Run
from mpsl.machines.events import Received
from mpsl.machines.hop import HopMachine
from mpsl.machines.jobs import MeasureBlocks
from mpsl.sim.faults import Faults, InjectedFault


def test_the_plan_follows_what_was_measured(tmp_path: Path) -> None:
    """Block 1 takes twice as long as the three after it together, and node-2 is twice as fast as node-1."""

    def ms(id: str, number: int) -> float:
        return (60.0 if number == 1 else 10.0) / (2 if id == "node-2" else 1)

    world = Surveyed(WithoutCuts(1, samples=(8,) * 6, tests=(3,) * 6), ms)
    outcome, plan = ran(world, tmp_path)
    assert (plan["cuts"], [seat["node"] for seat in plan["seats"]]) == ([1, 2, 5], ["node-2", "node-1"])
    predicted = plan["predicted"]["round_s"]
    assert predicted > 6 * 2 * 0.09  # the busiest node's own seconds
    rounds = outcome.summary["rounds"]
    assert [entry["predicted_s"] for entry in rounds] == [predicted] * 2
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["predicted_s"] == predicted
    blocks = {id: [question.blocks for question in asked] for id, asked in world.asked.items()}
    assert blocks["node-1"] == blocks["node-2"] == [((1, 5),)]
    assert blocks["dev-1"] == blocks["dev-6"] == [((0, 1), (5, 6))]


def test_on_one_machine_as_many_measure_at_once_as_it_has_cores_and_the_others_share(tmp_path: Path) -> None:
    scenario = WithoutCuts(2, samples=(5, 4, 6, 5, 4), tests=(0,) * 5)
    world = Surveyed(scenario, hosts=lambda id: "here", cores=2)
    _, plan = ran(world, tmp_path)
    assert sorted(id for id, asked in world.asked.items() if asked) == ["dev-1", "dev-2", "node-1", "node-2"]
    assert world.most_at_once == 2
    assert "predicted" in plan


def test_a_job_with_cuts_and_a_fleet_that_cannot_be_asked_are_not_measured(tmp_path: Path) -> None:
    world = Surveyed(Scenario(3))
    outcome, plan = ran(world, tmp_path / "cuts")
    assert "predicted" not in plan
    assert "predicted_s" not in outcome.summary["rounds"][0]
    silent = Surveyed(WithoutCuts(3), hosts=lambda id: "" if id == "dev-2" else id)
    _, plan = ran(silent, tmp_path / "silent")
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert not any([*world.asked.values(), *silent.asked.values()])


def test_a_lossy_network_only_delays_it(tmp_path: Path) -> None:
    faults = Faults(lost=0.1, doubled=0.1, late=0.3, longest_delay_s=3.0)
    for seed in range(5):
        world = Surveyed(WithoutCuts(seed, faults=faults), measuring_s=2.5)
        _, plan = ran(world, tmp_path / str(seed))
        assert "predicted" in plan
        assert all(len(asked) == 1 for asked in world.asked.values()), "asked again, measured once"


@pytest.mark.parametrize("id", ["node-1", "dev-2"])
def test_one_that_crashes_while_it_measures_is_asked_again(tmp_path: Path, id: str) -> None:
    faults = Faults(injected=(InjectedFault("crash", id, 8, 3.0),))
    world = Surveyed(WithoutCuts(4, faults=faults), measuring_s=20.0)
    outcome = simulate(world.scenario, tmp_path, world=world)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert any("left-while-profiling" in line for line in outcome.simulation.trace.text().splitlines())
    assert "predicted" in json.loads((tmp_path / "plan.json").read_text())


def test_who_does_not_answer_in_time_does_not_stop_the_run(tmp_path: Path) -> None:
    world = Surveyed(WithoutCuts(5, start_timeout_s=300.0), measuring_s=130.0)
    outcome, plan = ran(world, tmp_path)
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert "within 120 s; cut by estimated compute" in outcome.simulation.trace.text()


def test_one_that_cannot_measure_does_not_stop_the_run(tmp_path: Path) -> None:
    def ms(id: str, number: int) -> float:
        if id == "dev-1":
            raise RunFailed("no memory for block 0")
        return 1.0

    outcome, plan = ran(Surveyed(WithoutCuts(6), ms), tmp_path)
    assert "predicted" not in plan
    assert "dev-1: no memory for block 0; cut by estimated compute" in outcome.simulation.trace.text()


def test_times_that_are_no_times_do_not_stop_the_run(tmp_path: Path) -> None:
    outcome, plan = ran(Surveyed(WithoutCuts(7), ms=lambda id, number: float("inf")), tmp_path)
    assert "predicted" not in plan
    assert "a time is negative or not finite" in outcome.simulation.trace.text()


def test_where_nothing_can_be_planned_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_plan(system: Any, shape: Any, cheapest: bool) -> Any:
        raise UsageError("no placement fits")

    monkeypatch.setattr("orchestrator.chosen_plan.find_plan", find_plan)
    outcome, plan = ran(Surveyed(WithoutCuts(8)), tmp_path)
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert "no placement fits; cut by estimated compute" in outcome.simulation.trace.text()


def test_commands_to_others_and_what_is_no_command_are_dropped() -> None:
    machine = HopMachine("node-1", "0a", TOPICS, {"memory_budget": None})
    question = {"model": {"name": "mlp"}, "batch_size": 2, "optimizer": "sgd", "blocks": [[1, 2]]}
    topic = TOPICS.participant("node", "node-1", "cmd")
    wrong: list[Any] = [
        b"{", b"", {"do": "profile", "boot": "0b", "question": question}, {"do": "dance", "boot": "0a"},
        {"do": "profile", "boot": "0a", "question": question | {"batch_size": "2"}},
        {"do": "profile", "boot": "0a", "question": question | {"optimizer": "adma"}},
        {"do": "profile", "boot": "0a", "question": question | {"blocks": [[2, 1]]}},
        {"do": "profile", "boot": "0a"},
    ]  # fmt: skip
    for number, content in enumerate(wrong, start=1):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        effects = machine.handle(Received(topic, payload), 1.0)
        assert not any(isinstance(effect, Run) for effect in effects), content
        assert machine.dropped["command is malformed"] == number
    right = json.dumps({"do": "profile", "boot": "0a", "question": question}).encode()
    effects = machine.handle(Received(topic, right), 1.0)
    assert [type(effect.job) for effect in effects if isinstance(effect, Run)] == [MeasureBlocks]
    assert machine.handle(Received(topic, right), 2.0) == [], "it is measuring already"
