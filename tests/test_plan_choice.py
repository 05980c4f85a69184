"""The simulator chooses among the best plans by the formula, and only where it says something else."""

import dataclasses
import itertools
import random

import pytest
from planning_cases import random_case
from straggler_fleets import stragglers

from mpsl.errors import UsageError
from mpsl.planning.alternatives import alternatives
from mpsl.planning.fleet import Fleet
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import Choice, PlanFile
from mpsl.planning.planner import plan, value
from mpsl.planning.profile_file import Profile
from mpsl.planning.report import summary
from mpsl.planning.system import system_of
from mpsl.sim import plan_choice
from mpsl.sim.plan_choice import choose
from mpsl.sim.rehearsal import simulated_seconds


def chosen(profile: Profile, fleet: Fleet, cheapest: bool = False) -> Choice:
    system = system_of(profile, fleet)
    best = plan(system, Shape(), cheapest)
    return choose(profile, fleet, best, alternatives(system, Shape(), best, cheapest), cheapest)


def simulated(found: PlanFile) -> float:
    assert found.predicted.simulated_s is not None
    return found.predicted.simulated_s


def test_with_stragglers_the_simulator_leaves_the_plan_that_the_formula_calls_optimal() -> None:
    profile, fleet = stragglers()
    choice = chosen(profile, fleet)
    assert choice.formula.optimal
    assert simulated(choice.formula) > choice.formula.predicted.round_s * 1.05, "the formula does not see the waiting"
    assert choice.plan.predicted.round_s > choice.formula.predicted.round_s
    assert simulated(choice.plan) < simulated(choice.formula) * (1 - plan_choice.MIN_GAIN)
    # What is said of the plan is said against the proof for all plans.
    assert not choice.plan.optimal
    assert choice.plan.gap == pytest.approx(1 - choice.formula.predicted.round_s / choice.plan.predicted.round_s)
    assert choice.plan.lower_bound_s == pytest.approx(choice.formula.lower_bound_s)
    system = system_of(profile, fleet)
    for hops in (1, 2):
        exact = plan(system, Shape(hops))
        assert simulated(choice.plan) <= (simulated_seconds(profile, fleet, exact, 10_000) or 0.0)


def test_the_report_says_which_of_the_two_calls_the_plan_the_best() -> None:
    left = chosen(*stragglers())
    text = summary(left)
    assert "from its optimum at most" in text
    assert f"best of {left.simulated} plans simulated; the formula's best is cuts [8, 11]" in text
    kept = chosen(*stragglers(server=0.3, mbps=20.0))
    assert kept.plan == kept.formula
    text = summary(kept)
    assert "optimal, proven" in text
    assert "simulator   agrees" in text
    unasked = plan(system_of(*stragglers()), Shape())
    text = summary(Choice(unasked, unasked, 0, "the round has too many messages"))
    assert "simulator   not asked, the round has too many messages" in text


def test_alternatives_are_other_plans_that_are_no_better_by_the_formula() -> None:
    looked = 0
    for seed in range(160):
        draw = random.Random(seed)
        profile, fleet = random_case(draw)
        system, cheapest = system_of(profile, fleet), seed % 3 == 0
        try:
            best = plan(system, Shape(), cheapest)
        except UsageError:
            continue
        others = alternatives(system, Shape(), best, cheapest)
        placements = [(found.cuts, found.seats) for found in (best, *others)]
        assert all(one != other for one, other in itertools.combinations(placements, 2))
        values = [value(found, cheapest) for found in others]
        assert values == sorted(values)
        for other in others:
            looked += 1
            assert other.optimal == (other.gap == 0)
            fluid = value(other, cheapest) / (1 + other.predicted.rounding_loss)
            least = value(best, cheapest) / (1 + best.predicted.rounding_loss)
            assert fluid * (1 - other.gap) == pytest.approx(least, rel=1e-6)
            assert fluid >= least * (1 - 1e-6)
    assert looked > 200


def test_without_hops_there_is_no_other_plan() -> None:
    system = system_of(*stragglers(admit=None))
    assert alternatives(system, Shape(0), plan(system, Shape(0))) == []


def test_where_money_counts_a_faster_plan_must_be_worth_it() -> None:
    profile, fleet = stragglers()
    choice = chosen(profile, fleet, cheapest=True)
    rate = choice.plan.predicted.cost / choice.plan.predicted.round_s
    assert rate * simulated(choice.plan) <= choice.formula.predicted.cost * (
        simulated(choice.formula) / choice.formula.predicted.round_s
    )


def test_work_for_a_choice_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, fleet = stragglers()
    monkeypatch.setattr(plan_choice, "MAX_ALL_MESSAGES", 1_300)  # of 1,280 a plan of one hop
    assert chosen(profile, fleet).simulated == 2
    monkeypatch.setattr(plan_choice, "MAX_MESSAGES", 10)
    choice = chosen(profile, fleet)
    assert (choice.simulated, choice.plan.predicted.simulated_s) == (0, None)
    assert choice.plan == choice.formula


def test_a_plan_far_worse_by_the_formula_is_not_simulated() -> None:
    profile, fleet = stragglers()
    system = system_of(profile, fleet)
    best = plan(system, Shape())
    far = dataclasses.replace(best, predicted=dataclasses.replace(best.predicted, round_s=1e6))
    assert choose(profile, fleet, best, [far], cheapest=False).simulated == 1
