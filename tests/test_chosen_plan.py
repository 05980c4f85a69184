"""A run without cuts and `mpsl plan` choose the same plan: by the formula and the simulator, in bounded time."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from self_profiles import Surveyed, WithoutCuts, ran
from straggler_fleets import between_fixed_cuts, stragglers
from surveys import linked, said

from mpsl import facts
from mpsl.errors import OutOfTime, RunFailed
from mpsl.machines.orchestrator_jobs import FindPlan, PlanFound
from mpsl.planning.alternatives import alternatives
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import Choice
from mpsl.planning.planner import plan
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import system_of
from mpsl.sim import plan_choice
from mpsl.sim.plan_choice import MIN_GAIN
from mpsl.sim.rehearsal import STEPS_PER_LOOK, Rehearsal
from orchestrator import performer
from orchestrator.chosen_plan import chosen_plan
from orchestrator.commands.plan import plan as plan_command
from orchestrator.performer import OrchestratorPerformer

Case = tuple[Profile, Fleet]
FIXED = between_fixed_cuts(stragglers(mbps=100.0), 1000.0, 1000.0)
"""The fleet of the issue as a run sees it: 32 devices, 4 with a tenth of the link, admit = 4, two nodes, two hops."""


def toml(fleet: Fleet) -> str:
    """FLEET.toml of a fleet."""
    lines: list[str] = []
    for table, content in facts.plain(fleet).items():
        for entry in content if isinstance(content, list) else [content]:
            lines.append(f"[[{table}]]" if isinstance(content, list) else f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in entry.items() if value is not None]
    return "\n".join(lines) + "\n"


def planned_by_command(case: Case, hops: int, folder: Path) -> dict[str, Any]:
    profile, fleet = folder / "profile.json", folder / "fleet.toml"
    profile.write_text(json.dumps(facts.plain(case[0])))
    fleet.write_text(toml(case[1]))
    line = ["--profile", str(profile), "--fleet", str(fleet), "--hops", str(hops), "--json"]
    result = CliRunner().invoke(plan_command, line)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def planned_by_run(case: Case, hops: int, folder: Path) -> Choice:
    found = OrchestratorPerformer(folder / "out").perform(FindPlan(*case, hops))
    assert isinstance(found, PlanFound)
    return found.choice


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is about a machine's speed, and these tests run on loaded ones."""
    monkeypatch.setattr(performer, "MAX_CHOICE_S", inf)


@pytest.mark.slow
@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(
    ("case", "hops", "chosen_by"),
    [
        (FIXED, 2, "simulator"),
        (FIXED, 1, "formula"),
        (stragglers(), 2, "formula and simulator"),
    ],
)
def test_a_run_and_the_command_choose_the_same_plan(case: Case, hops: int, chosen_by: str, tmp_path: Path) -> None:
    by_run, by_command = planned_by_run(case, hops, tmp_path), planned_by_command(case, hops, tmp_path)
    assert by_run.chosen_by == chosen_by
    assert by_run.reason == ""
    assert facts.plain(replace(by_run.plan, solver_ms=None)) == {**by_command, "solver_ms": None}


@pytest.mark.slow
def test_between_fixed_device_cuts_the_simulator_finds_a_plan_with_other_inner_cuts() -> None:
    profile, fleet = FIXED
    choice = chosen_plan(profile, fleet, Shape(2))
    formula, taken = choice.formula.predicted, choice.plan.predicted
    assert (choice.formula.cuts, choice.plan.cuts) == ((1, 8, 11), (1, 4, 11))
    assert choice.formula.optimal
    assert not choice.plan.optimal
    assert formula.simulated_s is not None
    assert taken.simulated_s is not None
    assert taken.round_s > formula.round_s
    assert taken.simulated_s < formula.simulated_s * (1 - MIN_GAIN)


def test_alternatives_between_fixed_cuts_are_the_best_moves_and_exchanges() -> None:
    """Checked with all placements that move one cut or exchange two unlike nodes."""
    profile, fleet = between_fixed_cuts(stragglers(), 1000.0, 300.0)
    system = system_of(profile, fleet)
    best = plan(system, Shape(2))
    found = alternatives(system, Shape(2), best)
    nodes = [seat.node for seat in best.seats]
    assert {other.cuts[0] for other in found} == {1}
    assert {other.cuts[-1] for other in found} == {11}
    moved = [other for other in found if other.cuts != best.cuts]
    assert all([seat.node for seat in other.seats] == nodes for other in moved)
    exchanged = [other for other in found if other.cuts == best.cuts]
    assert [[seat.node for seat in other.seats] for other in exchanged] == [nodes[::-1]]
    seconds = [other.predicted.round_s for other in found]
    assert seconds == sorted(seconds)
    assert len({(other.cuts, other.seats) for other in found}) == len(found) == 8
    alike = system_of(*FIXED)
    others = alternatives(alike, Shape(2), plan(alike, Shape(2)))
    assert all(other.cuts != plan(alike, Shape(2)).cuts for other in others), "to exchange equal nodes changes nothing"


# In bounded time


def ticking(*moments: float) -> Callable[[], float]:
    """A clock that shows these times, then the last one for ever."""
    shown: Iterator[float] = iter(moments)
    last = [0.0]

    def clock() -> float:
        last[0] = next(shown, last[0])
        return last[0]

    return clock


def test_without_time_the_formulas_best_plan_is_taken() -> None:
    choice = chosen_plan(*FIXED, Shape(2), within_s=3.0, clock=ticking(10.0, 10.5, 13.6))
    assert choice.plan.cuts == choice.formula.cuts == plan(system_of(*FIXED), Shape(2)).cuts
    assert choice.chosen_by == "formula"
    assert choice.reason == "simulating the best plans takes longer than 3 s"
    assert choice.plan.predicted.simulated_s is None
    assert choice.plan.solver_ms == pytest.approx(500.0), "the search of the formula does not count"


def test_a_rehearsal_ends_soon_after_its_time_is_over() -> None:
    found = plan(system_of(*FIXED), Shape(2))
    looks = [0]

    def is_late() -> bool:
        looks[0] += 1
        return looks[0] == 3

    with pytest.raises(OutOfTime, match=f"after {3 * STEPS_PER_LOOK} events"):
        Rehearsal(*FIXED, found, "the plan").run(1, is_late)


def failing_at(call: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal of the so manieth plan raises; each before it is faster than the one before."""
    calls = [0]

    def simulated_seconds(profile: Profile, fleet: Fleet, planned: Any, most: int, is_late: Any) -> float:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return 400.0 - 9.0 * calls[0]

    monkeypatch.setattr(plan_choice, "simulated_seconds", simulated_seconds)


@pytest.mark.parametrize(("done", "chosen_by"), [(1, "formula"), (2, "simulator"), (3, "simulator")])
def test_where_time_ends_in_the_middle_the_choice_is_among_those_judged_so_far(
    done: int, chosen_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_at(done + 1, OutOfTime("late"), monkeypatch)
    choice = chosen_plan(*FIXED, Shape(2), within_s=5.0)
    assert choice.chosen_by == chosen_by
    assert choice.simulated == (done if done > 1 else 0)
    assert choice.reason == (
        f"the time was over after {done} plans" if done > 1 else "simulating the best plans takes longer than 5 s"
    )


def test_a_rehearsal_that_fails_costs_no_run_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    failing_at(2, RunFailed("the rehearsed run did not end: it makes no progress"), monkeypatch)
    choice = chosen_plan(*FIXED, Shape(2))
    assert (choice.chosen_by, choice.simulated) == ("formula", 0)
    assert choice.reason == "the rehearsed run did not end: it makes no progress"


# In a run


def capture(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Profile, Fleet, Shape]]:
    """What runs ask for; they have all the time."""
    asked: list[tuple[Profile, Fleet, Shape]] = []

    def chosen(profile: Profile, fleet: Fleet, shape: Shape, within_s: float) -> Choice:
        asked.append((profile, fleet, shape))
        return chosen_plan(profile, fleet, shape)

    monkeypatch.setattr(performer, "chosen_plan", chosen)
    return asked


@pytest.mark.slow
def test_a_run_with_stragglers_takes_the_simulators_choice_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 devices, 4 with a tenth of the link, admit = 4; block 4 and block 8 are the dear ones."""
    asked = capture(monkeypatch)
    scenario = WithoutCuts(1, samples=(8,) * 32, tests=(0,) * 32, admit=4, rounds=1, hidden=(4,) * 10)
    slow = {f"dev-{number}": (0.03, 0.03, 5.0) for number in range(1, 5)}
    fast = {f"dev-{number}": (0.3, 0.3, 5.0) for number in range(5, 33)}

    def ms(id: str, number: int) -> float:
        return 0.5 if id.startswith("dev") else {4: 6.0, 8: 4.0}.get(number, 2.0)

    outcome, taken = ran(linked(scenario, slow | fast, ms=ms), tmp_path)
    (case,) = asked
    choice = chosen_plan(*case)
    assert choice.chosen_by == "simulator"
    assert taken["cuts"] == list(choice.plan.cuts) != list(choice.formula.cuts)
    assert taken["predicted"]["simulated_s"] == choice.plan.predicted.simulated_s
    planned = outcome.summary["planned"]
    assert (planned["chosen_by"], planned["simulated_plans"]) == ("simulator", choice.simulated)
    assert (planned["cuts"], planned["formula"]["cuts"]) == (list(choice.plan.cuts), list(choice.formula.cuts))
    assert planned["simulated_s"] < planned["formula"]["simulated_s"]
    assert json.loads((tmp_path / "summary.json").read_text())["planned"] == planned
    (line,) = said(outcome, "planned")
    formula = planned.pop("formula")
    assert planned.items() <= line.items()
    assert {key: line[f"formula_{key}"] for key in formula} == formula


def test_a_run_whose_simulator_has_no_time_says_that_the_formula_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(performer, "MAX_CHOICE_S", -1.0)
    outcome, taken = ran(Surveyed(WithoutCuts(3)), tmp_path)
    planned = outcome.summary["planned"]
    assert (planned["chosen_by"], planned["simulated_plans"], planned["simulated_s"]) == ("formula", 0, None)
    assert "takes longer than" in planned["reason"]
    assert (planned["cuts"], taken["predicted"]["simulated_s"]) == (taken["cuts"], None)
    assert "warning  planned" in outcome.simulation.trace.text()


def test_a_run_that_cannot_plan_says_that_nobody_chose(tmp_path: Path) -> None:
    silent = Surveyed(WithoutCuts(3), hosts=lambda id: "" if id == "dev-2" else id)
    outcome, _ = ran(silent, tmp_path)
    assert outcome.summary.get("planned") is None
