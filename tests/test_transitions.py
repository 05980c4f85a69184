"""The transition tables: runs reach the rows, every other pair is refused, the page of diagrams is up to date."""

import enum
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from orchestrator_rig import BOOTS, REPLICAS, OrchestratorRig, rig
from participant_rig import TOPICS, Rig, slice_of
from scenarios import Scenario, random_faults
from self_profiles import Surveyed, WithoutCuts, ran
from simulated import run_and_check

from mpsl.errors import IllegalTransition
from mpsl.machines.device import DeviceMachine
from mpsl.machines.events import StopRequested
from mpsl.machines.jobs import Prepared
from mpsl.machines.orchestrator_jobs import RecordRound
from mpsl.machines.tables import device, document, hop, run
from mpsl.machines.tables.run import SEATED_STATES, OrchestratorState
from mpsl.machines.tables.table import StateMachine, Table
from mpsl.messages import Accept, Admit, Counters, Discard, Evaluate
from mpsl.sim.faults import Faults, InjectedFault

TABLES: list[Table[Any, Any]] = [run.TABLE, device.TABLE, hop.TABLE]
MAX_SEEDS = 40
CHANGES: dict[OrchestratorState, dict[str, Any]] = {
    OrchestratorState.PROFILING: {"model__cuts": None},
    OrchestratorState.COMMITTING: REPLICAS,
}
"""Of the job, for the states that not every run comes by."""
ROOT = Path(__file__).parent.parent


def at(table: Table[Any, Any], state: enum.Enum) -> StateMachine[Any, Any]:
    """A machine in that state."""
    machine = StateMachine(table)
    machine._state = state
    return machine


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_pair_that_is_no_row_is_refused_and_every_row_leads_where_it_says(table: Table[Any, Any]) -> None:
    outcomes = {type(outcome) for _, outcome in table.transitions}.pop()
    refused = 0
    for state in table.messages:
        for outcome in outcomes:
            machine = at(table, state)
            if (state, outcome) in table.transitions:
                assert machine.advance(outcome) is machine.state is table.transitions[state, outcome]
                continue
            with pytest.raises(IllegalTransition, match=outcome.name):
                machine.advance(outcome)
            assert machine.state is state, "nothing has changed"
            refused += 1
    assert refused > 0


def test_nobody_but_the_interpreter_writes_a_state() -> None:
    for path in (ROOT / "mpsl" / "machines").rglob("*.py"):
        if path.name != "table.py":
            assert not re.search(r"\b_?states?\._state\b", path.read_text()), path


def test_the_page_of_diagrams_is_up_to_date() -> None:
    assert (ROOT / "docs" / "state-machines.md").read_text() == document.page(), "run `make diagrams`"


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, Any, Any]]:
    """The rows that are followed while the test runs, by the name of their table."""
    rows: set[tuple[str, Any, Any]] = set()
    advance = StateMachine.advance

    def recorded(self: StateMachine[Any, Any], outcome: Any) -> Any:
        before = self.state
        following = advance(self, outcome)
        rows.add((self.table.name, before, outcome))
        return following

    monkeypatch.setattr(StateMachine, "advance", recorded)
    return rows


def device_with_test_data() -> Rig:
    """dev-1, joined, with two slices of weights and one batch of test data."""
    found = Rig(DeviceMachine("dev-1", "d", TOPICS, {}))
    found.join()
    found.done(found.jobs()[0], Prepared(16, samples=4, test_batches=1))
    return found


def play_a_device_that_is_discarded_everywhere() -> None:
    """What needs an unlucky moment in a run: a discard in every state, and calls before an accept is heard."""
    weights = [slice_of(0, 0), slice_of(0, 2)]
    admit, evaluate, discard = Admit(1, "dev-1", "d", 1, 1), Evaluate(0, 1), Discard(1, "dev-1", 1)
    for said in (
        [Accept(1, "dev-1", 0, 1, 4, 1)],
        [discard],
        [admit, discard],
        [*weights, admit, discard],
        [evaluate, discard],
        [*weights, evaluate, discard],
        [*weights, Admit(1, "dev-1", "d", 1, 0), discard],
        [*weights, Admit(1, "dev-1", "d", 1, 0), Admit(2, "dev-1", "d", 2, 1)],
        [*weights, Admit(1, "dev-1", "d", 1, 0), Evaluate(1, 2)],
    ):
        played = device_with_test_data()
        for message in said:
            played.say("orch", message)


def run_in(state: OrchestratorState) -> OrchestratorRig:
    """A run that has come as far as this state."""
    found = rig(**CHANGES.get(state, {}))
    found.reach(state)
    return found


def play_runs_that_are_interrupted_in_every_state() -> None:
    """Every state but the last ends early when the process is told to stop."""
    for state in OrchestratorState:
        if state is not OrchestratorState.ENDING:
            run_in(state).handle(StopRequested())


def play_runs_that_lose_their_node_wherever_it_is_needed() -> None:
    """It stops, and is back at once; a round that was committed before is evaluated, or reported, first."""
    for evaluate_every in (1, 2):
        for state in SEATED_STATES:
            if (evaluate_every, state) == (2, OrchestratorState.EVALUATING):
                continue
            played = rig(run__evaluate_every=evaluate_every, **CHANGES.get(state, {}))
            played.reach(state)
            if played.machine.run_state.committed:
                played.checkpoint()
            played.lose_node()
            assert played.state is OrchestratorState.RESEATING
            played.be_online("node-1")
            assert played.state is OrchestratorState.JOINING
            played.answer_plan()
            played.load()


def play_runs_whose_fleet_changes_before_the_first_round() -> None:
    """A device stops while the fleet is profiled; another run, whose name comes first, takes a device of the plan."""
    run_in(OrchestratorState.PROFILING).tell("dev", "dev-2", "status", state="offline")
    run_in(OrchestratorState.JOINING).be_online("dev-2", "another-run")


def play_a_run_whose_chain_grows() -> None:
    """A better plan is there when the first round is reported, and waits until that is on disk."""
    played = run_in(OrchestratorState.REPORTING)
    machine = played.machine
    state = machine.run_state
    seats = state.seated
    growth = SimpleNamespace(is_ready=True, seat=lambda: setattr(state, "seating", seats) or True)
    machine._reporting._growth = growth  # type: ignore[assignment]
    for id in BOOTS:
        played.say(id, Counters(1, 10, 10))
    assert played.state is OrchestratorState.REPORTING, "the round is not on disk"
    played.checkpoint()
    played.done(RecordRound)
    assert played.state is OrchestratorState.JOINING
    assert state.need_plan().round == 1


def test_runs_reach_every_row(tmp_path: Path, reached: set[tuple[str, Any, Any]]) -> None:
    """Random runs with faults, one that is profiled first; played by hand is what needs an unlucky moment."""
    wanted = {(table.name, *row) for table in TABLES for row in table.transitions}
    play_runs_that_are_interrupted_in_every_state()
    play_runs_that_lose_their_node_wherever_it_is_needed()
    play_runs_whose_fleet_changes_before_the_first_round()
    crashed = InjectedFault("crash", "orch", 90, 1.0)
    run_and_check(Scenario(seed=1, faults=Faults(injected=(crashed,))), tmp_path / "resumed")
    ran(Surveyed(WithoutCuts(1)), tmp_path / "profiled")
    play_a_device_that_is_discarded_everywhere()
    play_a_run_whose_chain_grows()
    for seed in range(MAX_SEEDS):
        if wanted <= reached:
            break
        run_and_check(random_faults(seed), tmp_path / str(seed))
    missing = wanted - reached
    assert not missing, sorted(f"{name}: {state.name} {outcome.name}" for name, state, outcome in missing)
