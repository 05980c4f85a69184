"""The search against a brute force that lists every placement and asks nothing but the objective."""

import itertools
import random
from collections.abc import Iterator

import pytest
from planning_cases import random_case

from mpsl.planning import search
from mpsl.planning.objective import Placement, Prediction, fluid_loads, predict
from mpsl.planning.search import TIE
from mpsl.planning.shape import Shape
from mpsl.planning.solver import solve
from mpsl.planning.system import System, system_of

SEEDS = range(0, 200, 100)
SLOW_SEEDS = range(500, 5_000, 500)


def placements(system: System, hops: int | None) -> Iterator[Placement]:
    """Every placement: ordered cuts, and for the stages disjoint sets of nodes (single ones where `hops` is exact)."""
    nodes = range(len(system.nodes))
    sizes = [1] if hops is not None else range(1, min(len(system.nodes), len(system.devices)) + 1)
    sets = [chosen for size in sizes for chosen in itertools.combinations(nodes, size)]
    most = min(len(nodes), system.max_hops or len(nodes))
    for count in [hops] if hops is not None else range(1, most + 1):
        cuts = [
            cuts
            for cuts in itertools.combinations(range(1, system.blocks), count + 1)
            if system.first_cut in (None, cuts[0]) and system.last_cut in (None, cuts[-1])
        ]
        for stages in itertools.permutations(sets, count):
            if len(set().union(*stages)) == sum(map(len, stages)):
                for chosen in cuts:
                    yield Placement(chosen, stages)


def judged(system: System, placement: Placement) -> Prediction | None:
    return predict(system, placement, fluid_loads(system, placement))


def worth(prediction: Prediction | None, cheapest: bool) -> float:
    if prediction is None:
        return float("inf")
    return prediction.cost + TIE * prediction.round_s if cheapest else prediction.round_s


def check(seed: int) -> None:
    draw = random.Random(seed)
    system = system_of(*random_case(draw))
    cheapest = draw.random() < 0.3
    room = (system.last_cut or system.blocks - 1) - (system.first_cut or 1)
    hops = draw.choice([None, None, draw.randint(1, min(len(system.nodes), room, system.max_hops or 9))])
    best = min(worth(judged(system, placement), cheapest) for placement in placements(system, hops))
    found = solve(system, Shape(hops), cheapest)
    if found is None:
        assert best == float("inf"), seed
        return
    assert found.optimal, seed
    assert found.value == pytest.approx(best, rel=1e-9), seed
    assert worth(judged(system, found.placement), cheapest) == pytest.approx(best, rel=1e-9), seed


@pytest.mark.parametrize("first", SEEDS)
def test_the_plan_is_the_best_of_all_placements(first: int) -> None:
    for seed in range(first, first + 100):
        check(seed)


@pytest.mark.parametrize("first", [1_000_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_dear_bounds_and_a_poor_first_look_change_nothing(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "WORK_A_SET", 0)
    monkeypatch.setattr(search, "NARROW", 1)
    for seed in range(first, first + 100):
        check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", SLOW_SEEDS)
def test_the_plan_is_the_best_of_all_placements_in_many_more_cases(first: int) -> None:
    for seed in range(first, first + 500):
        check(seed)
