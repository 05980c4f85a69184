"""The search against a brute force that lists every placement and asks nothing but the objective."""

import itertools
import random
from collections.abc import Iterator

import pytest

from mpsl.planning import search
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.memory import BASE_BYTES, GIB
from mpsl.planning.objective import Placement, Prediction, fluid_loads, predict
from mpsl.planning.profile import BlockProfile, HardwareTimes, Profile
from mpsl.planning.search import TIE
from mpsl.planning.shape import Shape
from mpsl.planning.solver import solve
from mpsl.planning.system import System, system_of

SEEDS = range(0, 200, 100)
SLOW_SEEDS = range(500, 5_000, 500)


def random_system(draw: random.Random) -> System:
    """A small case of every colour: slow and fast links, tight and ample memory, hosts, equal and unequal members."""
    blocks = draw.randint(3, 6)
    scale = draw.choice([1e3, 1e5, 1e6, 2e7])
    busy_nodes = draw.random() < 0.6  # devices and links so fast that the nodes set the pace

    def times(slowness: float) -> HardwareTimes:
        cores = draw.choice([None, None, 1, 2, 4])
        return HardwareTimes(
            tuple(slowness * draw.choice([0.0, 1.0, draw.uniform(0.1, 10)]) for _ in range(blocks)),
            tuple(slowness * draw.uniform(0.1, 20) for _ in range(blocks)),
            tuple(slowness * draw.uniform(0, 2) for _ in range(blocks)) if draw.random() < 0.5 else (),
            wire_cpu_s_per_gb=draw.choice([0.0, 1.0, 4.0]),
            copy_gb_per_s=draw.choice([None, 0.5, 5.0]),
            cores=cores,
            threads=draw.randint(1, cores or 2),
        )

    profile = Profile(
        "some",
        draw.choice([1, 32]),
        int(scale * draw.uniform(0.1, 2)),
        tuple(
            BlockProfile(
                f"block-{number}",
                int(scale * draw.choice([0, draw.uniform(0.1, 10)])),
                int(scale * draw.uniform(0.05, 3)),
                int(scale * draw.uniform(0, 5)),
            )
            for number in range(blocks)
        ),
        {"slow": times(draw.choice([1.0, 5.0])), "fast": times(0.7), "odd": times(1.0), "instant": times(0.001)},
    )
    hosts = draw.random() < 0.3
    kinds = ["slow", "fast", "odd"]
    base = BASE_BYTES / GIB
    memory = [8.0 if draw.random() < 0.5 else base + scale * draw.uniform(10, 150) / GIB for _ in range(3)]
    if draw.random() < 0.4:
        memory = [base + scale * draw.uniform(10, 80) / GIB for _ in range(3)]

    def host() -> str | None:
        return draw.choice([None, "here", "there"]) if hosts else None

    nodes, left = [], draw.choice([2, 3, 4, 4])
    while left:
        count = draw.randint(1, left)
        left -= count
        nodes.append(
            FleetNode(
                f"node{left}", draw.choice(kinds), draw.choice(memory), draw.choice([0.0, 1.0, draw.uniform(0.1, 3)]),
                count, draw.choice([10.0, 100.0, 10_000.0]) * (100 if busy_nodes else 1), host(),
            )
        )  # fmt: skip
    devices = tuple(
        FleetDevice(
            f"device{number}", "instant" if busy_nodes else draw.choice(kinds), draw.randint(1, 200),
            draw.randint(2, 9) if busy_nodes else draw.randint(1, 4),
            draw.choice([5.0, 100.0, 1000.0]) * (1e5 if busy_nodes else 1),
            draw.choice([20.0, 1000.0]) * (1e5 if busy_nodes else 1),
            draw.choice([0.0, 1.0, 30.0]) * (0.01 if busy_nodes else 1),
            draw.choice([None, None, base + scale * 40 / GIB]), host(),
        )
        for number in range(draw.randint(1, 3))
    )  # fmt: skip
    broker = FleetBroker(
        draw.choice([20.0, 1000.0, 10_000.0]) * (1e5 if busy_nodes else 1),
        draw.choice([0.0, 0.5]),
        None if busy_nodes else draw.choice([None, 5.0, 500.0]),
        host(),
    )
    first = draw.choice([None, 1, draw.randint(1, blocks - 2)])
    job = FleetJob(
        local_epochs=draw.randint(1, 2),
        batches_per_epoch=draw.choice([None, 1, 3]),
        first_cut=first,
        last_cut=draw.choice([None, blocks - 1, draw.randint((first or 1) + 1, blocks - 1)]),
        max_hops=draw.choice([None, None, 1, 2]),
        micro_batches=draw.choice([1, 1, 4]),
        optimizer=draw.choice(["sgd", "momentum", "adam"]),
        activations=draw.choice(["fp32", "fp16", "int8"]),
        gradients=draw.choice(["fp32", "topk:0.05"]),
        admit=draw.choice([None, None, None, 1, 3]),
    )
    return system_of(
        profile,
        Fleet(devices, tuple(nodes), broker, (FleetHost("here", 2), FleetHost("there", 8)) if hosts else (), job),
    )


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
    system = random_system(draw)
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
