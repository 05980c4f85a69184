"""`--plan`: what a run takes of a plan, what is refused before anything starts, and whom the run then waits for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scenarios import Scenario
from simulated import World, run_and_check

from mpsl import facts
from mpsl.errors import UsageError
from mpsl.planning.plan_file import PlannedRun, planned_run
from orchestrator.job_file import load_planned_job
from orchestrator.locally import LocalFleet, check_shards
from orchestrator.plan_option import load_plan

JOB = """
[run]
name = "planned"
rounds = 1
batch_size = 4
[model]
name = "mlp"
args = {{ hidden = [4, 4, 4, 4] }}
{cuts}
[optimizer]
name = "sgd"
lr = 0.05
[fleet]
devices = {devices}
nodes = {nodes}
{more}
"""
PLAN: dict[str, Any] = {
    "cuts": [1, 2, 4],
    "seats": [
        {"stage": 1, "replica": 0, "node": "attic", "blocks": [1, 2]},
        {"stage": 2, "replica": 0, "node": "cellar-2", "blocks": [2, 4]},
        {"stage": 2, "replica": 1, "node": "cellar-10", "blocks": [2, 4]},
    ],
    "devices": {"pi-b": [0, 1], "pi-a": [0, 0], "dev-7": [0, 1]},
    "admit": 2,
}
JUDGED = {
    "predicted": {"batch_s": 1.0, "any": None},
    "lower_bound_s": 1.0,
    "optimal": True,
    "gap": 0.0,
    "solver_ms": 3.0,
    "compare": [{"name": "one hop"}],
}


def files(directory: Path, plan: Any = PLAN, **job: Any) -> tuple[Path, Path]:
    said = {"cuts": "", "devices": 3, "nodes": 3, "more": "", **job}
    (directory / "job.toml").write_text(JOB.format(**said))
    (directory / "plan.json").write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return directory / "job.toml", directory / "plan.json"


def test_a_run_takes_cuts_seats_devices_and_g_of_a_plan_and_lets_the_rest_be(tmp_path: Path) -> None:
    for plan in (PLAN, PLAN | JUDGED):
        job, planned, overruled = load_planned_job(*files(tmp_path, plan))
        assert overruled == []
        assert facts.plain(planned) == PLAN
        assert (job.model.cuts, job.fleet.admit, job.hops) == ((1, 2, 4), 2, 2)


@pytest.mark.parametrize("nodes", [3, 4, 9])
def test_a_plan_may_leave_nodes_out_also_where_they_would_be_too_many_hops(tmp_path: Path, nodes: int) -> None:
    assert load_planned_job(*files(tmp_path, nodes=nodes))[0].hops == 2


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"cuts": "cuts = [1, 3, 4]"}, "model.cuts = [1, 3, 4] is [1, 2, 4] in the plan"),
        ({"devices": 4}, "fleet.devices = 4 is 3 in the plan"),
        ({"nodes": 2}, "fleet.nodes = 2 is 3 in the plan"),
        ({"more": "admit = 3"}, "fleet.admit = 3 is 2 in the plan"),
    ],
)
def test_where_the_job_says_otherwise_the_plan_wins_and_that_is_said(
    tmp_path: Path, said: dict[str, Any], words: str
) -> None:
    job, _, overruled = load_planned_job(*files(tmp_path, **said))
    assert (job.model.cuts, job.fleet.devices, job.fleet.nodes, job.fleet.admit) == ((1, 2, 4), 3, 3, 2)
    assert overruled == [words]


@pytest.mark.parametrize(
    ("job", "plan", "words"),
    [
        ({"more": "quorum = 4", "devices": 4}, {}, ["plan.json", "3 devices", "fleet.quorum = 4"]),
        ({}, {"admit": 4}, ["plan.json", "admit = 4"]),
        ({}, {"speed": 4}, ["plan.json", "unknown key 'speed'"]),
        ({}, {"admit": ...}, ["plan.json", "admit"]),
        ({}, {"devices": {"attic": [0, 1], "b": [0, 0], "c": [0, 0]}}, ["plan.json", "'attic' occurs twice"]),
        ({}, {"devices": {"A b": [0, 1], "b": [0, 0], "c": [0, 0]}}, ["plan.json", "'A b' is not an id"]),
        ({}, {"devices": {"a": [0, 2], "b": [0, 0], "c": [0, 0]}}, ["plan.json", "'a'", "[0, 2]"]),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, job: dict[str, Any], plan: dict[str, Any], words: list[str]) -> None:
    changed = {key: value for key, value in (PLAN | plan).items() if value is not ...}
    with pytest.raises(UsageError) as caught:
        load_planned_job(*files(tmp_path, changed, **job))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_the_plan_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    seats = [{"stage": 1, "replica": 0, "node": "attic", "blocks": [1, 9]}]
    plan = {"cuts": [1, 9], "seats": seats, "devices": {"a": [0]}, "admit": 1}
    with pytest.raises(
        UsageError, match=r"plan.json: cuts = \[1, 9\]: the model has 5 blocks .* another model than mlp"
    ):
        load_planned_job(*files(tmp_path, plan, devices=1))


@pytest.mark.parametrize("text", ["", "3 hops\n{}", "[" * 9999, "[]", "null"])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    _, path = files(tmp_path, text)
    with pytest.raises(UsageError, match=r"plan\.json"):
        load_plan(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_plan(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("shards", "word"),
    [
        (["pi-a", "pi-b"], "dev-7"),
        (["pi-a", "pi-b", "dev-7", "dev-8"], "not in the plan: dev-8"),
        (["d"], "dev-7, pi-a"),
    ],
)
def test_local_wants_a_shard_for_just_the_devices_of_the_plan(shards: list[str], word: str) -> None:
    fleet = LocalFleet({id: Path(id) for id in shards}, [])
    with pytest.raises(UsageError, match=word):
        check_shards(fleet, planned_run(PLAN, "plan"), "shards")


# In a run


def as_scenario(**changes: Any) -> Scenario:
    """Two devices, and the nodes of the plan in an order that is not that of their ids."""
    seats = [
        {"stage": 1, "replica": 0, "node": "zoo", "blocks": [1, 2]},
        {"stage": 2, "replica": 0, "node": "attic", "blocks": [2, 3]},
    ]
    plan = {"cuts": [1, 2, 3], "seats": seats, "devices": {"dev-2": [0, 0], "dev-1": [0, 0]}, "admit": 1}
    return replace(Scenario(seed=3, hops=2, hidden=(4, 4, 4)), planned=planned_run(plan, "plan"), **changes)


def run_with(scenario: Scenario, out: Path, strangers: list[str], missing: list[str]) -> World:
    """Simulate with more nodes than the plan has, or without some that it has."""

    class Other(World):
        def add_devices_and_nodes(self) -> None:
            super().add_devices_and_nodes()
            for id in strangers:
                self.simulation.add(id, self.starting(id, lambda boot, id=id: self._hop(id, boot)))
            for id in missing:
                self.simulation._starts[id] = self.starting(id, lambda boot, id=id: self._hop(f"{id}-x", boot))

    world = Other(scenario, once=False)
    run_and_check(scenario, out, world=world)
    return world


def test_everyone_gets_the_seat_that_the_plan_says(tmp_path: Path) -> None:
    world = run_with(as_scenario(), tmp_path, ["aardvark"], [])
    assert world.orchestrators["orch"].summary["state"] == "done"
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert {seat["node"]: (seat["stage"], seat["blocks"]) for seat in plan["seats"]} == {
        "zoo": (1, [1, 2]),
        "attic": (2, [2, 3]),
    }
    assert (plan["cuts"], plan["admit"], plan["admit_most"], list(plan["devices"])) == (
        [1, 2, 3],
        1,
        1,
        ["dev-2", "dev-1"],
    )


def test_who_is_missing_and_who_is_not_in_the_plan_is_said(tmp_path: Path) -> None:
    world = run_with(as_scenario(start_timeout_s=20.0), tmp_path, ["aardvark"], ["zoo"])
    summary = world.orchestrators["orch"].summary
    assert summary["state"] == "failed"
    assert "waiting for: zoo;" in summary["reason"]
    assert summary["reason"].endswith("there, but not in the plan: aardvark, zoo-x")
    said = [line for line in world.simulation.trace.text().splitlines() if "not-in-the-plan" in line]
    assert len(said) == 2, said


def test_what_a_plan_says_twice_it_says_once(tmp_path: Path) -> None:
    planned = planned_run(PLAN, "plan")
    assert planned_run(json.loads(json.dumps(facts.plain(planned))), "again") == planned
    assert isinstance(planned, PlannedRun)
