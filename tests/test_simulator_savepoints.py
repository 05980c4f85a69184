"""Savepoints: a long round goes on where the newest one was taken, with the oracle's bits, whoever has died."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from scenarios import Scenario
from simulated import Outcome, run_and_check

from mpsl.errors import UsageError
from mpsl.sim.faults import Faults, InjectedFault
from orchestrator.savepoint_file import SAVEPOINT, SavepointFile

LONG = Scenario(
    seed=1,
    hops=2,
    samples=(9, 6, 11, 8, 7, 5, 10, 4),
    tests=(0,) * 8,
    hidden=(4, 4, 4, 4),
    rounds=2,
    quorum=8,
    admit=1,
    slowest_job_s=0.1,
    expected_failure_s=0.5,
)
"""Eight devices one after the other, and a savepoint every few of them."""
STEPS = [150, 190, 230, 270, 310, 350]


def befall(scenario: Scenario, *injected: InjectedFault) -> Scenario:
    return replace(scenario, faults=Faults(injected=injected))


def said(outcome: Outcome, event: str) -> list[str]:
    """The lines of the log with this event."""
    return [
        line for line in outcome.simulation.trace.text().splitlines() if f"'{event}'" in line or f" {event}" in line
    ]


def check_done(outcome: Outcome) -> None:
    assert outcome.summary["state"] == "done", outcome.trace()
    assert not (outcome.out / SAVEPOINT).exists(), "the round that it was of is durable"


def test_savepoints_change_nothing_where_nobody_dies(tmp_path: Path) -> None:
    outcome = run_and_check(LONG, tmp_path)
    check_done(outcome)
    assert len(said(outcome, "savepoint")) >= 2
    assert not said(outcome, "round-restored")


def test_there_are_none_where_a_round_is_shorter_than_their_interval(tmp_path: Path) -> None:
    outcome = run_and_check(replace(LONG, expected_failure_s=1e6), tmp_path)
    check_done(outcome)
    assert not said(outcome, "savepoint")


def restored_somewhere(out: Path, scenario: Scenario, process: str, seconds: float) -> list[Outcome]:
    """The runs that went on from a savepoint after `process` had died. All must end as the oracle does."""
    found = []
    for after in STEPS:
        outcome = run_and_check(befall(scenario, InjectedFault("crash", process, after, seconds)), out / str(after))
        check_done(outcome)
        if said(outcome, "round-restored"):
            found.append(outcome)
    return found


@pytest.mark.slow
def test_a_round_goes_on_from_a_savepoint_when_a_node_has_died(tmp_path: Path) -> None:
    assert restored_somewhere(tmp_path, replace(LONG, standbys=1), "node-2", math.inf)


@pytest.mark.slow
def test_a_round_goes_on_from_a_savepoint_when_the_orchestrator_has_died(tmp_path: Path) -> None:
    for outcome in restored_somewhere(tmp_path, LONG, "orch", 2.0):
        entries = outcome.summary["rounds"]
        assert any(set(entry.get("accepted_under", {}).values()) == {1, 2} for entry in entries)
        break
    else:
        pytest.fail("no savepoint was used")


@pytest.mark.slow
def test_a_round_goes_on_from_a_savepoint_when_the_chain_is_cut_anew(tmp_path: Path) -> None:
    for outcome in restored_somewhere(tmp_path, replace(LONG, is_cut=False), "node-2", math.inf):
        assert outcome.summary["terms"][-1]["cuts"] != outcome.summary["terms"][0]["cuts"]
        break
    else:
        pytest.fail("no savepoint was used")


@pytest.mark.slow
def test_replicas_go_on_with_their_own_sums(tmp_path: Path) -> None:
    scenario = replace(LONG, replicas=2, admit=2, standbys=1)
    for outcome in restored_somewhere(tmp_path, scenario, "node-2", math.inf):
        assert all("additions" in entry for entry in outcome.summary["rounds"])
        break
    else:
        pytest.fail("no savepoint was used")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a run that was killed in its first round, after a savepoint."""
    for after in STEPS:
        out = tmp_path / str(after)
        run_and_check(befall(LONG, InjectedFault("crash", "orch", after, math.inf)), out)
        if (out / SAVEPOINT).exists():
            return out
    pytest.fail("no savepoint was written")


@pytest.mark.slow
def test_a_savepoint_says_what_it_holds(interrupted: Path) -> None:
    run = json.loads((interrupted / "manifest.json").read_text())["run"]
    found = SavepointFile(interrupted, run).read()
    assert found is not None
    assert 0 < found.number == len(found.updates) < 8
    with safe_open(interrupted / SAVEPOINT, "numpy") as file:
        names = set(file.keys())
    with safe_open(interrupted / "initial.safetensors", "numpy") as file:
        assert {name.removeprefix("0/") for name in names} == set(file.keys())
    assert SavepointFile(interrupted, "another-run").read() is None


@pytest.mark.slow
@pytest.mark.parametrize("place", [0.3, 0.6, 0.99])
def test_a_damaged_savepoint_is_refused_with_what_to_do(interrupted: Path, place: float) -> None:
    path = interrupted / SAVEPOINT
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)
    run = json.loads((interrupted / "manifest.json").read_text())["run"]
    with pytest.raises(UsageError, match="remove it, and the round"):
        SavepointFile(interrupted, run).read()
