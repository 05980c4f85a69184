"""The objective's terms, each against a number worked out by hand, and the pieces around the search."""

import dataclasses
import math
import random
from typing import Any

import pytest

from mpsl.errors import UsageError
from mpsl.planning.admission import largest_admission, seat_admission, starting_admission
from mpsl.planning.assignment import assign
from mpsl.planning.compare import compare, replicas_of
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.memory import GIB
from mpsl.planning.objective import Load, Placement, Prediction, fluid_loads, predict
from mpsl.planning.planner import plan
from mpsl.planning.profile import BlockProfile, HardwareTimes, Profile
from mpsl.planning.shape import Shape
from mpsl.planning.solver import solve
from mpsl.planning.system import System, system_of

WIDE = 8e9  # Mbit/s: 10¹⁵ bytes/s, so that what does not matter takes no time
MANY = {"count": 20}  # 100 batches a round, so that no device sets the pace
CHAIN = Placement((1, 2, 3), ((0,), (1,)))


def system(
    *,
    node: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    broker: dict[str, Any] | None = None,
    hosts: tuple[FleetHost, ...] = (),
    times: dict[str, Any] | None = None,
    **job: Any,
) -> System:
    """Four blocks of 1, 10, 30 and 1 ms, with 2 devices of 5 batches, 1 MB at each cut, and links that take no time."""
    milliseconds = (0.5, 5.0, 15.0, 0.5)
    hardware = HardwareTimes(milliseconds, milliseconds, **(times or {}))
    profile = Profile("m", 4, 1_000_000, (BlockProfile("b", 4_000_000, 1_000_000, 2_000_000),) * 4, {"box": hardware})
    devices: dict[str, Any] = {"count": 2, "up_mbps": WIDE, "down_mbps": WIDE, "latency_ms": 0.0}
    members: dict[str, Any] = {"memory_gib": 8.0, "cost_per_hour": 3600.0, "count": 2, "link_mbps": WIDE}
    return system_of(
        profile,
        Fleet(
            (FleetDevice("d", "box", 20, **(devices | (device or {}))),),
            (FleetNode("n", "box", **(members | (node or {}))),),
            FleetBroker(**({"link_mbps": WIDE, "latency_ms": 0.0} | (broker or {}))),
            hosts,
            FleetJob(**job),
        ),
    )


def judge(some: System, placement: Placement = CHAIN) -> Prediction:
    assignment = assign(some, placement)
    prediction = predict(some, placement, assignment.loads, assignment.replicas)
    assert prediction is not None
    return prediction


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)


def test_the_busiest_seat_and_one_batch_make_the_round() -> None:
    prediction = judge(system())
    assert prediction.bottleneck == ("seat", "n-2")
    assert prediction.bottleneck_s == near(10 * 0.030)
    assert prediction.batch_s == near(0.042)
    assert prediction.round_s == near(0.342)
    assert prediction.cost == near(2 * 0.342)
    assert prediction.node_busy_s == {"n-1": near(0.1), "n-2": near(0.3)}


def test_copying_and_folding_count_once_a_device() -> None:
    prediction = judge(system(times={"copy_gb_per_s": 1.0}))
    assert prediction.bottleneck_s == near(10 * 0.030 + 2 * 0.008)


def test_a_node_link_carries_every_cut_and_its_part_once() -> None:
    prediction = judge(system(node={"link_mbps": 80.0}, device=MANY))  # 10 MB/s each way; 2 MB a batch in, 2 MB out
    assert prediction.bottleneck[0] == "node-link"
    assert prediction.bottleneck_s == near(100 * 0.2 + 0.4)
    assert prediction.batch_s == near(0.042 + 2 * 2 * 0.2)


def test_each_direction_of_a_link_counts_alone() -> None:
    prediction = judge(system(node={"link_mbps": 80.0}, device=MANY, gradients="int4"))
    assert prediction.bottleneck_s == near(100 * (0.1 + 0.0125) + 0.4)


def test_wire_cpu_counts_both_directions_and_the_weights() -> None:
    prediction = judge(system(times={"wire_cpu_s_per_gb": 50.0}, device=MANY))
    assert prediction.bottleneck_s == near(100 * 4e6 * 50e-9 + 8e6 * 50e-9)
    assert prediction.bottleneck[0] == "node-link"


def test_the_broker_passes_on_every_cut_and_all_weights_twice() -> None:
    prediction = judge(system(broker={"max_mb_per_s": 10.0}, device=MANY))
    assert prediction.bottleneck == ("broker", "broker")
    weights = 2 * (2 * 4 + 20 * 8)  # two seats of 4 MB, 20 devices of 8 MB, there and back
    assert prediction.bottleneck_s == near((100 * 3 * 2 + weights) / 10)
    assert prediction.batch_s == near(0.042 + 3 * 0.2)


def test_a_slow_device_sets_the_pace_with_its_own_cycle() -> None:
    prediction = judge(system(device={"up_mbps": 8.0, "down_mbps": 80.0, "latency_ms": 10.0}))
    cycle = 0.042 + 2.0 + 0.2 + 4 * 0.010
    assert prediction.batch_s == near(cycle)
    assert prediction.bottleneck == ("device", "d-1")
    assert prediction.bottleneck_s == near(5 * cycle + 8.0 + 0.8 + 0.020)


def test_admission_serves_the_devices_in_waves() -> None:
    prediction = judge(system(admit=1))
    assert prediction.bottleneck == ("admission", "orch")
    assert prediction.bottleneck_s == near(2 * 5 * 0.042)
    assert prediction.admit == 1


def test_processes_on_one_host_share_its_cores() -> None:
    here = (FleetHost("here", 1),)
    prediction = judge(system(node={"host": "here"}, hosts=here))
    assert prediction.bottleneck == ("seat", "n-2")  # the one that takes most of the host
    assert prediction.bottleneck_s == near(10 * 0.040)
    everyone = judge(system(node={"host": "here"}, device={"host": "here"}, hosts=here))
    assert everyone.bottleneck_s == near(10 * 0.042)


def test_a_machine_of_its_own_has_its_own_cores() -> None:
    prediction = judge(system(times={"wire_cpu_s_per_gb": 5.0, "cores": 1, "threads": 1}, device=MANY))
    assert prediction.bottleneck_s == near(100 * (0.030 + 4e6 * 5e-9) + 8e6 * 5e-9)


def test_micro_batches_overlap_all_but_the_slowest_machine() -> None:
    prediction = judge(system(micro_batches=4))
    assert prediction.batch_s == near(0.042 / 4 + 0.75 * 0.030)


def test_another_devices_slow_link_is_not_on_the_way_of_a_batch() -> None:
    some = system(micro_batches=2, device=MANY)
    fast = [dataclasses.replace(device, batches=50) for device in some.devices[1:]]
    slow = dataclasses.replace(some.devices[0], batches=1, up=1e6, down=1e6)
    mixed = dataclasses.replace(some, devices=(slow, *fast))
    prediction = judge(mixed)
    assert prediction.batch_s > 2
    # Half a batch's cycle more for the slowest seat; were it the link of `slow`, 950 batches would wait 2 s each.
    assert prediction.bottleneck == ("seat", "n-2")
    assert prediction.bottleneck_s == near(951 * 0.030)
    solution = solve(mixed, Shape(2))
    assert solution is not None
    assert solution.value <= prediction.round_s


def test_no_hops_is_the_devices_alone() -> None:
    prediction = judge(system(), Placement((), ()))
    assert prediction.bottleneck[0] in ("device", "admission")
    assert prediction.round_s == near(5 * 0.042 + 0.042)
    assert prediction.node_bytes == {}


def test_memory_is_the_sum_of_its_holders_for_the_plans_admission() -> None:
    for admit, optimizer, states in ((1, "sgd", 0), (2, "momentum", 1), (2, "adam", 2)):
        prediction = judge(system(admit=admit, optimizer=optimizer))
        copy = (1 + states) * 4_000_000 + 2_000_000 + 1_000_000
        assert prediction.node_bytes["n-1"] == 3 * 4_000_000 + admit * copy


def test_the_budget_bounds_the_admission_to_the_byte() -> None:
    two = 12_000_000 + 2 * 7_000_000
    some = system(device={"count": 4})

    def admitted(budget: int) -> Prediction | None:
        nodes = tuple(dataclasses.replace(node, memory=float(budget)) for node in some.nodes)
        tight = dataclasses.replace(some, nodes=nodes)
        return predict(tight, CHAIN, assign(tight, CHAIN).loads)

    fits, short, none = admitted(two), admitted(two - 1), admitted(two - 7_000_001)
    assert fits is not None
    assert short is not None
    assert (fits.admit, short.admit, none) == (2, 1, None)


def test_starting_admission_covers_the_cycle_and_leaves_no_small_rest() -> None:
    assert starting_admission(100, 6.0, 1.0) == 10  # Gmin 9; 11 waves of 9 become 11 waves of 10
    assert starting_admission(10, 2.0, 1.0) == 4  # Gmin 3, three waves of 4, 4 and 2
    assert starting_admission(4, 100.0, 1.0) == 4
    assert starting_admission(8, 1.0, 0.0) == 8
    assert starting_admission(1, 1.0, 1.0) == 1


def test_the_chosen_admission_never_sets_the_pace() -> None:
    draw = random.Random(1)
    for _ in range(2000):
        devices, cycle = draw.randint(1, 60), draw.uniform(0.1, 50)
        admit = starting_admission(devices, cycle, 1.0)
        waves = -(-devices // admit)
        assert 1 <= admit <= devices
        assert cycle * waves <= max(devices, cycle) + 1e-9


def test_a_seat_holds_no_more_copies_than_its_largest_admission_allows() -> None:
    for copies in range(1, 9):
        for share in (1 / 3, 0.5, 0.1, 0.77, 1.0):
            most = largest_admission(copies, share, 1000)
            assert seat_admission(most, share) <= copies < seat_admission(most + 1, share)


def test_shares_follow_the_speed_and_devices_go_longest_first() -> None:
    slow = HardwareTimes((10.0,) * 3, (20.0,) * 3)
    fast = HardwareTimes((5.0,) * 3, (10.0,) * 3)
    profile = Profile("m", 10, 1000, (BlockProfile("b", 10, 10, 10),) * 3, {"slow": slow, "fast": fast})
    devices = tuple(FleetDevice(f"d{batches}", "fast", 10 * batches, 1, WIDE, WIDE, 0.0) for batches in (1, 2, 3, 4, 5))
    nodes = (FleetNode("a", "fast", 8.0, 1.0, 1, WIDE), FleetNode("b", "slow", 8.0, 1.0, 1, WIDE))
    some = system_of(profile, Fleet(devices, nodes, FleetBroker(WIDE, 0.0)))
    both = Placement((1, 2), ((0, 1),))
    assert [load.batches for load in fluid_loads(some, both)[0]] == pytest.approx([10, 5], rel=1e-3)
    assignment = assign(some, both)
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
    loads, chosen = [[Load(10, 2), Load(5, 1)]], [[0, 1, 0]]
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
    tight = {"memory_gib": (3 * 4e6 + 7e6 + 1e6) / GIB}
    assert replicas_of(plan(system(node=tight, first_cut=1, last_cut=3), Shape())) == [1, 1]
    with pytest.raises(UsageError, match="no placement fits"):
        plan(system(node=tight, first_cut=1, last_cut=3, max_hops=1), Shape())
    with pytest.raises(UsageError, match="max_hops = 1"):
        plan(system(max_hops=1), Shape(2))


def test_what_does_not_fit_is_named_with_the_bytes_over() -> None:
    needed = 3 * 8_000_000 + 8_000_000 + 4_000_000 + 1_000_000
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
    with pytest.raises(
        UsageError, match=r"nearest: blocks \[1, 2\) .* need 4000 bytes on node 'n-1', 3000 over its 1000"
    ):
        plan(small, Shape(1))


@pytest.mark.parametrize(
    ("shape", "job", "message"),
    [
        (Shape(3), {}, "3 hops need 3 nodes, but the fleet has 2"),
        (Shape(2), {"first_cut": 2}, "2 hops need at least 2 blocks"),
        (Shape(0), {"first_cut": 2}, "0 hops cannot be"),
    ],
)
def test_shapes_that_cannot_be_are_refused(shape: Shape, job: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(system(**job), shape)


def test_the_comparison_has_the_papers_four_ways() -> None:
    rows = compare(system(device={"count": 4}, first_cut=1, last_cut=3))
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
    tight = {"memory_gib": (3 * 4e6 + 7e6 + 1e6) / GIB}
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


def test_loads_can_be_any_assignment() -> None:
    some = system()
    both = Placement((1, 3), ((0, 1),))
    lopsided = predict(some, both, [[Load(10, 2), Load(0, 0)]])
    even = predict(some, both, [[Load(5, 1), Load(5, 1)]])
    assert lopsided is not None
    assert even is not None
    assert lopsided.bottleneck_s == near(0.4)
    assert even.bottleneck_s < lopsided.bottleneck_s


def test_whole_devices_go_where_a_fixed_admission_leaves_room_for_them() -> None:
    """Two replicas with memory for one copy each: a fast one and a slow one, each takes half of the devices."""
    one_copy = (12_000_000 + 7_000_000) / GIB
    some = system(admit=2, device={"count": 4}, node={"memory_gib": one_copy})
    fast, slow = some.nodes
    slow = dataclasses.replace(slow, hardware=dataclasses.replace(slow.hardware, seconds=(0, 0.02, 0.2, 0.4, 0.5)))
    pair = Placement((1, 2), ((0, 1),))
    uneven = dataclasses.replace(some, nodes=(fast, slow))
    assert [load.devices for load in assign(uneven, pair).loads[0]] == [2, 2]
    assert [load.devices for load in assign(dataclasses.replace(uneven, admit=None), pair).loads[0]] == [4, 0]


def test_where_divided_devices_alone_fit_the_best_chain_without_replicas_is_the_plan() -> None:
    """Three devices, two at once: replicas with room for one copy serve one and a half each, which nobody can."""
    one_copy = (12_000_000 + 7_000_000) / GIB
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
