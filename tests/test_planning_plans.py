"""Plans: whole devices, what does not fit, the comparison, and fleets too large for a brute force."""

import dataclasses
import math
import random
from typing import Any

import pytest
from planning_small import SEAT_COPY, SEAT_FIXED, WIDE, near, system

from mpsl.errors import UsageError
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetJob, FleetNode
from mpsl.planning.objective import Placement, SeatLoad, Shape, fluid_loads, predict
from mpsl.planning.planner import assign_devices, plan
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.report import compare, replicas_of
from mpsl.planning.search import solve
from mpsl.planning.seat_memory import GIB, SLACK_BYTES, WINDOW_BYTES
from mpsl.planning.system import System, system_of


def test_shares_follow_the_speed_and_devices_go_longest_first() -> None:
    slow = HardwareTimes((10.0,) * 3, (20.0,) * 3)
    fast = HardwareTimes((5.0,) * 3, (10.0,) * 3)
    profile = Profile("m", 10, 1000, (BlockProfile("b", 10, 10, 10),) * 3, {"slow": slow, "fast": fast})
    devices = tuple(FleetDevice(f"d{batches}", "fast", 10 * batches, 1, WIDE, WIDE, 0.0) for batches in (1, 2, 3, 4, 5))
    nodes = (FleetNode("a", "fast", 8.0, 1.0, 1, WIDE), FleetNode("b", "slow", 8.0, 1.0, 1, WIDE))
    some = system_of(profile, Fleet(devices, nodes, FleetBroker(WIDE, 0.0)))
    both = Placement((1, 2), ((0, 1),))
    assert [load.batches for load in fluid_loads(some, both)[0]] == pytest.approx([10, 5], rel=1e-3)
    assignment = assign_devices(some, both)
    assert assignment.replicas == ((1, 0, 0, 1, 0),)  # 5 fast, 4 slow, 3 fast, 2 fast, 1 slow
    assert [load.batches for load in assignment.loads[0]] == [10, 5]


def test_one_replica_loses_nothing_by_rounding_and_a_plan_holds_together() -> None:
    found = plan(system(device={"count": 5}), Shape(2))
    assert found.predicted.rounding_loss == 0
    assert found.optimal
    assert found.lower_bound_s == near(found.predicted.round_s)
    assert [seat.blocks for seat in found.seats] == [(1, 2), (2, 3)]
    assert found.devices == {f"d-{number}": (0, 0) for number in range(1, 6)}
    assert found.predicted.bottleneck_s * 25 + found.predicted.batch_s == near(found.predicted.round_s)


def test_rounding_loss_is_what_whole_devices_cost() -> None:
    some = system(device={"count": 3}, first_cut=1, last_cut=3)
    found = plan(some, Shape())
    assert replicas_of(found) == [2]
    assert found.predicted.rounding_loss == near((10 * 0.040 + 0.042) / (7.5 * 0.040 + 0.042) - 1)


def unequal_pair() -> System:
    """Two nodes that take 40 and 80 ms for the two blocks between the device's, and three devices of 5 batches."""
    some = system(device={"count": 3}, first_cut=1, last_cut=3)
    fast, slow = some.nodes
    slow = dataclasses.replace(
        slow, hardware=dataclasses.replace(slow.hardware, seconds=(0.0, 0.001, 0.021, 0.081, 0.082))
    )
    return dataclasses.replace(some, nodes=(fast, slow))


def test_a_whole_device_has_the_cycle_of_the_replicas_that_serve_it() -> None:
    some, pair = unequal_pair(), Placement((1, 3), ((0, 1),))
    loads, chosen = [[SeatLoad(10, 2), SeatLoad(5, 1)]], [[0, 1, 0]]
    own, divided = predict(some, pair, loads, chosen), predict(some, pair, loads)
    assert own is not None
    assert divided is not None
    assert own.batch_s == divided.batch_s == near(0.082)
    alone = dataclasses.replace(some, admit=1)
    own, divided = predict(alone, pair, loads, chosen), predict(alone, pair, loads)
    assert own is not None
    assert divided is not None
    assert own.bottleneck_s == near(5 * (2 * 0.042 + 0.082))
    assert divided.bottleneck_s == near(15 * 0.082)


def test_more_micro_batches_than_samples_are_as_many_as_samples() -> None:
    assert system(micro_batches=8).micro_batches == 4


def test_the_cheapest_plan_pays_for_no_idle_node() -> None:
    some = system(device={"count": 8})
    assert sum(replicas_of(plan(some, Shape()))) == 2
    assert sum(replicas_of(plan(some, Shape(), cheapest=True))) == 1


def test_max_hops_limits_what_auto_takes_and_is_refused_beyond() -> None:
    tight = {"memory_gib": (SEAT_FIXED + SEAT_COPY + 1e6) / GIB}
    assert replicas_of(plan(system(node=tight, first_cut=1, last_cut=3), Shape())) == [1, 1]
    with pytest.raises(UsageError, match="no placement fits"):
        plan(system(node=tight, first_cut=1, last_cut=3, max_hops=1), Shape())
    with pytest.raises(UsageError, match="max_hops = 1"):
        plan(system(max_hops=1), Shape(2))


def test_what_does_not_fit_is_named_with_the_bytes_over() -> None:
    needed = SEAT_FIXED + SEAT_COPY + 3 * 4_000_000 + 2_000_000
    budget = 0.03
    with pytest.raises(UsageError) as error:
        plan(system(node={"memory_gib": budget}, first_cut=1, last_cut=3), Shape(1))
    assert f"blocks [1, 3) with 1 device admitted need {needed} bytes on node 'n-1'" in str(error.value)
    assert f"{math.ceil(needed - budget * GIB)} over" in str(error.value)
    with pytest.raises(UsageError, match=r"bytes on device 'd-\d', \d+ over its 0.003 GiB"):
        plan(system(device={"memory_gib": 0.003}), Shape(1))
    with pytest.raises(UsageError, match="the whole model need"):
        plan(system(device={"memory_gib": 0.003}), Shape(0))


def test_parts_of_any_size_are_named() -> None:
    some = system(first_cut=1, last_cut=3)
    huge = dataclasses.replace(some, parameters=tuple(10**12 * each for each in some.parameters))
    with pytest.raises(UsageError, match=r"blocks \[1, 2\) with 1 device admitted need \d{19,} bytes on node 'n-1'"):
        plan(huge, Shape(2))


def test_what_comes_nearest_is_nearest_to_a_thousand_bytes() -> None:
    """Of three cuts the one whose parts are least over, though all are over by less than a mebibyte."""
    some = system(first_cut=1)
    small = dataclasses.replace(
        some, parameters=(0, 0, 1000, 41_000, 41_000), stored=(0,) * 5, output=(0,) * 5,
        nodes=tuple(dataclasses.replace(node, memory=1000.0) for node in some.nodes),
    )  # fmt: skip
    needed = 4 * 1000 + SLACK_BYTES + 2 * WINDOW_BYTES
    with pytest.raises(
        UsageError,
        match=rf"nearest: blocks \[1, 2\) .* need {needed} bytes on node 'n-1', {needed - 1000} over its 1000",
    ):
        plan(small, Shape(1))


@pytest.mark.parametrize(
    ("shape", "job", "message"),
    [
        (Shape(3), {}, "3 hops need 3 nodes, but the fleet has 2"),
        (Shape(2), {"first_cut": 2}, "2 hops need at least 2 blocks"),
        (Shape(0), {"first_cut": 2}, "0 hops are impossible"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: Shape, job: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(system(**job), shape)


def test_the_comparison_has_the_papers_four_ways() -> None:
    rows = compare(system(device={"count": 4}, first_cut=1, last_cut=3, admit=4))
    assert [row.name for row in rows] == ["one hop", "one hop, 2 replicas", "2 hops", "best of hops × replicas"]
    times = [row.round_s or 0.0 for row in rows]
    assert times[3] <= min(times)
    assert [row.shape for row in rows[:3]] == ["1", "2", "1 × 1"]
    assert rows[0].peak_node_bytes is not None
    assert rows[2].peak_node_bytes is not None
    assert rows[2].peak_node_bytes < rows[0].peak_node_bytes


def test_where_whole_devices_do_worse_than_divided_ones_the_best_is_another_way() -> None:
    """Two replicas would share three devices best if these could be divided; as they are, two hops are faster."""
    some = system(device={"count": 3, "up_mbps": WIDE}, first_cut=1, last_cut=3)
    even = dataclasses.replace(some.nodes[0].hardware, seconds=(0.0, 0.001, 0.020, 0.041, 0.042))
    some = dataclasses.replace(some, nodes=tuple(dataclasses.replace(node, hardware=even) for node in some.nodes))
    best = plan(some, Shape())
    assert best.optimal
    assert best.predicted.rounding_loss > 0
    rows = compare(some)
    assert rows[3].name == "best of hops × replicas"
    assert rows[3].shape == "1 × 1"
    assert rows[3].round_s == rows[2].round_s == near(15 * 0.021 + 0.042)
    assert (rows[3].round_s or 0.0) < best.predicted.round_s


def test_a_way_that_does_not_fit_says_why_in_the_comparison() -> None:
    tight = {"memory_gib": (SEAT_FIXED + SEAT_COPY + 1e6) / GIB}
    rows = compare(system(node=tight, first_cut=1, last_cut=3))
    assert rows[0].round_s is None
    assert "bytes on node" in (rows[0].reason or "")
    assert rows[2].round_s is not None


def many(kinds: int, count: int) -> System:
    """36 blocks and so many kinds of nodes, links and memory that matter."""
    draw = random.Random(7)
    base = [draw.uniform(5, 40) for _ in range(36)]
    blocks = tuple(BlockProfile("b", draw.randrange(20) * 10**6, draw.randrange(1, 40) * 10**5, 10**6) for _ in base)
    hardware = {}
    for kind in range(kinds):
        times = tuple(draw.uniform(1, 3) * value for value in base)
        hardware[f"h{kind}"] = HardwareTimes(times, times, wire_cpu_s_per_gb=1.0, copy_gb_per_s=4.0)
    hardware["pi"] = HardwareTimes(tuple(5 * value for value in base), tuple(5 * value for value in base))
    nodes = tuple(FleetNode(f"n{kind}", f"h{kind}", 2.0 + kind / 10, 1.0, count, 1000.0) for kind in range(kinds))
    device = FleetDevice("d", "pi", 640, 20, 100.0, 100.0, 5.0)
    return system_of(
        Profile("m", 64, 10**6, blocks, hardware),
        Fleet((device,), nodes, FleetBroker(10_000.0, 0.5), (), FleetJob(first_cut=1, last_cut=35)),
    )


@pytest.mark.parametrize(("kinds", "count"), [(1, 30), (8, 1), (2, 5)])
@pytest.mark.parametrize("shape", [Shape(), Shape(4)])
def test_large_fleets_are_proven_and_agree_with_the_objective(kinds: int, count: int, shape: Shape) -> None:
    some = many(kinds, count)
    found = solve(some, shape)
    assert found is not None
    assert found.optimal
    judged = predict(some, found.placement, fluid_loads(some, found.placement))
    assert judged is not None
    assert judged.round_s == pytest.approx(found.value, rel=1e-9)


def test_a_fleet_beyond_proof_says_so_with_the_gap() -> None:
    some = many(14, 1)
    found = solve(some, Shape())
    assert found is not None
    judged = predict(some, found.placement, fluid_loads(some, found.placement))
    assert judged is not None
    assert judged.round_s == pytest.approx(found.value, rel=1e-9)
    assert found.bound <= found.value
    assert found.optimal == (found.gap == 0)


def test_whole_devices_go_where_a_fixed_admission_leaves_room_for_them() -> None:
    """Two replicas with memory for one copy each: a fast one and a slow one, each takes half of the devices."""
    one_copy = (SEAT_FIXED + SEAT_COPY) / GIB
    some = system(admit=2, device={"count": 4}, node={"memory_gib": one_copy})
    fast, slow = some.nodes
    slow = dataclasses.replace(slow, hardware=dataclasses.replace(slow.hardware, seconds=(0, 0.02, 0.2, 0.4, 0.5)))
    pair = Placement((1, 2), ((0, 1),))
    uneven = dataclasses.replace(some, nodes=(fast, slow))
    assert [load.devices for load in assign_devices(uneven, pair).loads[0]] == [2, 2]
    assert [load.devices for load in assign_devices(dataclasses.replace(uneven, admit=None), pair).loads[0]] == [4, 0]


def test_where_divided_devices_alone_fit_the_best_chain_without_replicas_is_the_plan() -> None:
    """Three devices, two at once: replicas with room for one copy serve one and a half each, which nobody can."""
    one_copy = (SEAT_FIXED + SEAT_COPY) / GIB
    some = system(admit=2, device={"count": 3}, node={"memory_gib": one_copy, "count": 3})
    roomy = dataclasses.replace(some.nodes[2], memory=2 * some.nodes[2].memory, price=1.0)
    slow = dataclasses.replace(roomy, hardware=dataclasses.replace(roomy.hardware, seconds=(0, 1, 2, 3, 4)))
    found = plan(dataclasses.replace(some, nodes=(*some.nodes[:2], slow)), Shape())
    assert found.admit == 2
    assert {seat.replica for seat in found.seats} == {0}
    assert found.lower_bound_s < found.predicted.round_s
    assert not found.optimal
    with pytest.raises(UsageError, match="only if devices could be divided"):
        plan(dataclasses.replace(some, nodes=some.nodes[:2]), Shape())


def test_of_nodes_that_are_as_fast_the_cheaper_one_is_taken() -> None:
    some = system(node={"count": 4})
    prices = [4.0, 3.0, 1.0, 2.0]
    nodes = tuple(dataclasses.replace(node, price=price) for node, price in zip(some.nodes, prices, strict=True))
    # The third is cheapest and slowest: it would cost time.
    slow = dataclasses.replace(nodes[2], hardware=dataclasses.replace(nodes[2].hardware, seconds=(0, 9, 18, 27, 36)))
    found = plan(dataclasses.replace(some, nodes=(*nodes[:2], slow, nodes[3])), Shape(2))
    assert {seat.node for seat in found.seats} == {"n-2", "n-4"}
    assert found.predicted.round_s == plan(some, Shape(2)).predicted.round_s
