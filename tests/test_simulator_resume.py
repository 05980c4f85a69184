"""The orchestrator dies and is started again: the run goes on from the last committed round, with the oracle's bits."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from scenarios import Scenario
from simulated import World, run_and_check

from mpsl.errors import DiskError, UsageError
from mpsl.job import read_job
from mpsl.sim.faults import Faults, InjectedFault
from orchestrator.records import Records
from orchestrator.unfinished_run import unfinished_run

pytestmark = pytest.mark.slow
THREE = Scenario(seed=0, hops=2, samples=(9, 6, 11), tests=(4, 0, 3), hidden=(4, 4, 4, 4), rounds=4, quorum=1)


def befall(scenario: Scenario, *injected: InjectedFault) -> Scenario:
    return replace(scenario, faults=Faults(injected=injected))


@pytest.mark.parametrize("seconds", [0.5, 20.0])
@pytest.mark.parametrize("after", [40, 60, 75, 90, 110, 130, 160, 200, 240])
@pytest.mark.parametrize("hops", [0, 2])
def test_a_run_goes_on_when_its_orchestrator_is_started_again(
    tmp_path: Path, after: int, seconds: float, hops: int
) -> None:
    scenario = replace(THREE, hops=hops, seed=after, evaluate_every=1 + after % 2)
    outcome = run_and_check(befall(scenario, InjectedFault("crash", "orch", after, seconds)), tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert [entry["round"] for entry in outcome.summary["rounds"]] == [1, 2, 3, 4]
    recorded = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry["round"] for entry in recorded] == [1, 2, 3, 4]


def test_it_dies_again_and_again(tmp_path: Path) -> None:
    faults = [InjectedFault("crash", "orch", after, 1.0) for after in (50, 70, 90)]
    scenario = befall(THREE, *faults, InjectedFault("crash", "node-1", 100, 1.0))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert len(outcome.summary["terms"]) >= 2


@pytest.mark.parametrize("times", [3, 10**6])
@pytest.mark.parametrize("what", ["save_model", "append_round", "save_manifest"])
def test_a_full_disk_pauses_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, times: int) -> None:
    """It goes on once there is room, and nothing is counted twice; patience_s ends the wait, and names the file."""
    original = getattr(Records, what)
    left = [times]

    def full(self: Records, *arguments: Any) -> Any:
        if arguments[0] != "initial.safetensors" and left[0]:
            left[0] -= 1
            raise DiskError("/out/file: cannot be written: no space left on device")
        return original(self, *arguments)

    monkeypatch.setattr(Records, what, full)
    outcome = run_and_check(THREE, tmp_path)
    assert outcome.summary["state"] == ("done" if times == 3 else "failed"), outcome.trace()
    if times != 3:
        assert "no space left on device" in outcome.summary["reason"]
        assert outcome.ending.seconds > THREE.patience_s


def test_two_orchestrators_of_one_run_do_not_fight(tmp_path: Path) -> None:
    """The first is cut off for a while; another one takes the run over; the first ends itself and names it."""
    scenario = befall(replace(THREE, rounds=8, slowest_job_s=0.3), InjectedFault("freeze", "orch", 90, 100.0))
    world = World(scenario)
    world.add_orchestrator(tmp_path, 0.0)
    world.add_devices_and_nodes()
    world.add_successor(tmp_path, 60.0)
    world.run()
    first, second = world.orchestrators["orch"], world.orchestrators["orch-2"]
    assert second.summary["state"] == "done", world.simulation.trace.text()
    assert first.summary["state"] == "failed"
    assert second.boot in first.summary["reason"]
    assert "under term 2" in first.summary["reason"]


@pytest.mark.parametrize(
    ("section", "key", "value", "refused"),
    [
        ("run", "rounds", 9, ""),
        ("fleet", "patience_s", 5.0, ""),
        ("run", "batch_size", 3, "run.batch_size was 4 and is 3"),
        ("optimizer", "lr", 0.5, "optimizer.lr was 0.05 and is 0.5"),
        ("run", "rounds", 1, "asks for fewer"),
    ],
)
def test_only_rounds_and_deadlines_of_the_job_may_change(
    tmp_path: Path, section: str, key: str, value: Any, refused: str
) -> None:
    outcome = run_and_check(befall(THREE, InjectedFault("crash", "orch", 220, math.inf)), tmp_path)
    assert "orch" not in outcome.status
    content = THREE.job()
    found = unfinished_run(tmp_path, read_job(content, "job"), None)
    assert found is not None
    assert 1 < found.committed < THREE.rounds
    content[section][key] = value
    job = read_job(content, "job")
    if refused:
        with pytest.raises(UsageError, match=refused):
            unfinished_run(tmp_path, job, None)
    else:
        assert unfinished_run(tmp_path, job, None) == found


def test_half_a_line_that_a_kill_has_left_is_removed(tmp_path: Path) -> None:
    run_and_check(befall(THREE, InjectedFault("crash", "orch", 150, math.inf)), tmp_path)
    job = read_job(THREE.job(), "job")
    before = unfinished_run(tmp_path, job, None)
    whole = (tmp_path / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(whole + '{"run": "sim-0000')
    assert unfinished_run(tmp_path, job, None) == before
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_an_orchestrator_that_dies_before_anyone_joined_begins_the_run_in_the_same_folder(tmp_path: Path) -> None:
    outcome = run_and_check(befall(THREE, InjectedFault("crash", "orch", 12, 1.0)), tmp_path)
    assert outcome.summary["state"] == "done", outcome.trace()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("manifest.json", b"{", "manifest.json"),
        ("manifest.json", b'{"format": 99}', "format 99"),
        ("manifest.json", b'{"format": 1}', "manifest.json"),
        ("manifest.json", b"[]", "format None"),
        ("model.safetensors", b"\xff" * 100, "cannot be read"),
        ("model.safetensors", b"", "cannot be read"),
    ],
)
def test_damaged_files_of_an_unfinished_run_are_refused_by_name(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    run_and_check(befall(THREE, InjectedFault("crash", "orch", 150, math.inf)), tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        unfinished_run(tmp_path, read_job(THREE.job(), "job"), None)


@pytest.mark.parametrize("commit", ['{"metrics": {}}', '{"metrics": {}, "contributions": {"dev-1": {"x": 1}}}', "{"])
def test_a_model_whose_header_does_not_say_what_was_committed_is_refused(tmp_path: Path, commit: str) -> None:
    run_and_check(befall(THREE, InjectedFault("crash", "orch", 150, math.inf)), tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    save_file(load_file(path), path, metadata | {"commit": commit})
    with pytest.raises(UsageError, match=r"model\.safetensors"):
        unfinished_run(tmp_path, read_job(THREE.job(), "job"), None)
