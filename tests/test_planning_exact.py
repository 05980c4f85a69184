"""The search against a brute force that lists every placement and asks nothing but the objective."""

import itertools
import random
from collections.abc import Iterator
from math import inf

import pytest
from planning_cases import random_case, repeating

from mpsl.admission_limit import admission_waves
from mpsl.planning import search
from mpsl.planning.bound import min_admission_waves
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetNode
from mpsl.planning.objective import Placement, Prediction, Shape, fluid_loads, predict
from mpsl.planning.problem import TIE_WEIGHT, Problem
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.search import solve
from mpsl.planning.system import System, system_of
from mpsl.planning.vectorized_objective import EquivalentCutPairs

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
    return prediction.cost + TIE_WEIGHT * prediction.round_s if cheapest else prediction.round_s


def check(seed: int, blocks_repeat: bool = False) -> None:
    draw = random.Random(seed)
    case = random_case(draw)
    system = system_of(*(repeating(draw, *case) if blocks_repeat else case))
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


@pytest.mark.parametrize("first", [3_000_000, pytest.param(4_000_000, marks=pytest.mark.slow)])
def test_where_blocks_repeat_the_plan_is_still_the_best(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, left_out = EquivalentCutPairs.seen_before, []

    def counted(pairs: EquivalentCutPairs, pair: int) -> bool:
        left_out.append(seen(pairs, pair))
        return left_out[-1]

    monkeypatch.setattr(EquivalentCutPairs, "seen_before", counted)
    for seed in range(first, first + (60 if first == 3_000_000 else 300)):
        check(seed, blocks_repeat=True)
    assert sum(left_out) > len(left_out) // 20, "pairs that are the same as one before"


@pytest.mark.parametrize("first", [1_000_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_dear_bounds_and_a_poor_first_look_change_nothing(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "STAGES_PER_SUBSET_BOUND", 0)
    monkeypatch.setattr(search, "FIRST_BEAM_WIDTH", 1)
    monkeypatch.setattr(search, "MAX_UNSORTED_PAIRS", 1)
    for seed in range(first, first + 100):
        check(seed)


@pytest.mark.parametrize("hops", [None, 1, 2])
def test_no_placement_needs_fewer_waves_than_its_device_cuts_are_said_to_need(hops: int | None) -> None:
    tight = 0
    for seed in range(3_000_000, 3_000_040):
        system = system_of(*random_case(random.Random(seed)))
        problem = Problem(system, Shape(hops), False)
        first, last = problem.objective.first, problem.objective.last
        if not len(first):
            continue
        said_of_each = min_admission_waves(problem.table, first, last, inf, hops)
        least = dict(zip(zip(first, last, strict=True), said_of_each, strict=True))
        for placement in placements(system, hops):
            found = judged(system, placement)
            if found is not None:
                needed = admission_waves(len(system.devices), found.admit)
                said = least[placement.cuts[0], placement.cuts[-1]]
                assert said <= needed, (seed, placement)
                tight += said == needed > 1
    assert tight > (100 if hops is None else 20)  # so that a bound that is too high by one would show


def test_where_memory_is_tight_most_device_cuts_are_refuted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal blocks: hundreds of pairs of cuts have the same cheap bound, which knows nothing of the nodes they need."""
    solve_pair, solved = search.Search._solve_pair, []

    def counted(self: search.Search, pair: int, floor: float, until_found: bool) -> None:
        solved.append(pair)
        solve_pair(self, pair, floor, until_found)

    monkeypatch.setattr(search.Search, "_solve_pair", counted)
    blocks = tuple(BlockProfile(f"block-{number}", 4_000_000, 1_000_000, 20_000_000) for number in range(36))
    node = HardwareTimes((5.0,) * 36, (10.0,) * 36, (), 0.5, 2.0, 4, 1)
    device = HardwareTimes((15.0,) * 36, (30.0,) * 36, (), 1.0, 1.0, 4, 1)
    fleet = Fleet(
        devices=(FleetDevice("device", "device", 320, 20, 50.0, 50.0, 5.0),),
        nodes=(FleetNode("node", "node", 0.2, 1.0, 30, 1000.0),),
        broker=FleetBroker(10_000.0, 0.5, 500.0),
    )
    found = solve(system_of(Profile("equal", 32, 100_000, blocks, {"node": node, "device": device}), fleet), Shape())
    assert found is not None
    assert found.optimal
    assert len(solved) < 100  # of 595, and 351 without the bound


@pytest.mark.slow
@pytest.mark.parametrize("first", SLOW_SEEDS)
def test_the_plan_is_the_best_of_all_placements_in_many_more_cases(first: int) -> None:
    for seed in range(first, first + 500):
        check(seed)
