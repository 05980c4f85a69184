"""The objective's terms, each against a number worked out by hand."""

import dataclasses
import random

from planning_small import CHAIN, MANY, SEAT_COPY, SEAT_FIXED, judge, near, system

from mpsl.admission_limit import largest_admission, seat_admission, starting_admission
from mpsl.planning.fleet import FleetHost
from mpsl.planning.objective import Placement, Prediction, SeatLoad, Shape, predict
from mpsl.planning.planner import assign_devices
from mpsl.planning.search import solve
from mpsl.planning.service_demand import seat_demand


def test_the_busiest_seat_and_one_batch_make_the_round() -> None:
    prediction = judge(system())
    assert prediction.bottleneck == ("seat", "n-2")
    assert prediction.bottleneck_s == near(10 * 0.030)
    assert prediction.batch_s == near(0.042)
    assert prediction.round_s == near(0.342)
    assert prediction.cost == near(2 * 0.342)
    seats = [seat_demand(system(), node, *part) for node, part in zip(system().nodes, ((1, 2), (2, 3)), strict=True)]
    assert [seat.resources[0].seconds(10, 2) for seat in seats] == [near(0.1), near(0.3)]


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
    assert prediction.bottleneck_s == near(100 * (0.1 + 0.01328125) + 0.4)


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
        assert prediction.node_bytes["n-1"] == SEAT_FIXED + admit * (SEAT_COPY + states * 4_000_000)


def test_the_budget_bounds_the_admission_to_the_byte() -> None:
    two = SEAT_FIXED + 2 * SEAT_COPY
    some = system(device={"count": 4})

    def admitted(budget: int) -> Prediction | None:
        nodes = tuple(dataclasses.replace(node, memory=float(budget)) for node in some.nodes)
        tight = dataclasses.replace(some, nodes=nodes)
        return predict(tight, CHAIN, assign_devices(tight, CHAIN).loads)

    fits, short, none = admitted(two), admitted(two - 1), admitted(two - SEAT_COPY - 1)
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


def test_loads_can_be_any_assignment() -> None:
    some = system()
    both = Placement((1, 3), ((0, 1),))
    lopsided = predict(some, both, [[SeatLoad(10, 2), SeatLoad(0, 0)]])
    even = predict(some, both, [[SeatLoad(5, 1), SeatLoad(5, 1)]])
    assert lopsided is not None
    assert even is not None
    assert lopsided.bottleneck_s == near(0.4)
    assert even.bottleneck_s < lopsided.bottleneck_s
