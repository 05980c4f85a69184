"""Rehearsals: small cases calculated by hand, bounds that no run can beat in random cases, determinism."""

import random
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import pytest
from planning_cases import random_case

from mpsl.errors import UsageError
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import PlanFile, PlannedRun, PlannedSeat
from mpsl.planning.planner import plan
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile, phase_times
from mpsl.planning.seat_memory import SLACK_BYTES, WINDOW_BYTES
from mpsl.planning.system import system_of
from mpsl.sim.metrics import MAX_POINTS, metrics_of, thinned
from mpsl.sim.rehearsal import Rehearsal, simulated_seconds
from mpsl.sim.timeline import COMPUTE, Timeline

PARAMETERS, OUTPUTS = (1_000_000, 2_000_000, 3_000_000), (400_000, 600_000, 10)
HARDWARE = HardwareTimes((10.0, 20.0, 30.0), (20.0, 40.0, 60.0), (1.0, 2.0, 3.0))
FAST = 8e6
"""Mbit/s that make a megabyte take a microsecond."""


def profile(hardware: HardwareTimes = HARDWARE, parameters: tuple[int, ...] = PARAMETERS) -> Profile:
    sizes = zip(parameters, OUTPUTS, strict=True)
    blocks = tuple(BlockProfile(f"b{n}", weights, output, 7_000_000) for n, (weights, output) in enumerate(sizes))
    return Profile("three", 8, 100, blocks, {"any": hardware, "idle": HardwareTimes((0,) * 3, (0,) * 3)})


def fleet(
    devices: int = 1, batches: int = 1, up: float = 1e9, down: float = 1e9, link: float = 1e9, latency: float = 0.0,
    hardware: str = "any", **others: object,
) -> Fleet:  # fmt: skip
    host = others.pop("host", None)
    return Fleet(
        (FleetDevice("dev", hardware, 8 * batches, devices, up, down, latency, host=host),),  # type: ignore[arg-type]
        (FleetNode("node", "any", 8.0, 1.0, 1, link, host=host),),  # type: ignore[arg-type]
        **{"broker": FleetBroker(1e12, 0.0), **others},  # type: ignore[arg-type]
    )


def chain(fleet: Fleet, admit: int | None = None) -> PlannedRun:
    """Block 1 on the node, the others on the devices."""
    devices = [device.id for device in fleet.expanded_devices()]
    node = fleet.expanded_nodes()[0].id
    seat = PlannedSeat(1, 0, node, (1, 2))
    return PlannedRun((1, 2), (seat,), dict.fromkeys(devices, (0,)), admit or len(devices))


def rehearsed(profile: Profile, fleet: Fleet, rounds: int = 1, admit: int | None = None) -> Timeline:
    return Rehearsal(profile, fleet, chain(fleet, admit), "the plan", keep=True).run(rounds)


def seconds(profile: Profile, fleet: Fleet, **options: int) -> float:
    found = rehearsed(profile, fleet, **options).rounds[0].seconds
    assert found is not None
    return found


def test_one_device_and_one_hop_are_the_sum_of_everything_on_the_way() -> None:
    megabytes = {"up": 2.0, "down": 4.0, "link": 10.0}
    mbps = {name: rate * 8 for name, rate in megabytes.items()}
    a, g = OUTPUTS[0] / 1e6, OUTPUTS[1] / 1e6
    compute = (10 + 20 + 1 + 20 + 40 + 2 + 30 + 60 + 3) / 1e3
    up, down, link = megabytes["up"], megabytes["down"], megabytes["link"]
    links = a / up + a / link + g / link + g / down + g / up + g / link + a / link + a / down
    latencies = 4 * 0.005
    # The node's part goes to the checkpoint after the close.
    weights = 4.0 / down + 4.0 / up + 2 * 0.005
    found = seconds(profile(), fleet(**mbps, latency=5.0))
    assert found == pytest.approx(compute + links + latencies + weights, rel=1e-6)


def test_the_cpu_of_a_byte_is_spent_at_either_end_and_nobody_else_waits_for_it() -> None:
    wired = replace(HARDWARE, wire_cpu_s_per_gb=100.0)
    crossing = 2 * (OUTPUTS[0] + OUTPUTS[1])
    # Every crossing has two ends; the weights of the device (down and up) have one that counts.
    cpu = (2 * crossing + 2 * 4_000_000) * 100e-9
    assert seconds(profile(wired), fleet()) == pytest.approx(seconds(profile(), fleet()) + cpu, rel=1e-4)


def test_copies_and_folds_take_their_time() -> None:
    # Copied while the device computes its first part; folded before the seat closes.
    copying = replace(HARDWARE, copy_gb_per_s=0.5)
    assert seconds(profile(copying), fleet()) == pytest.approx(seconds(profile(), fleet()) + 0.004, rel=1e-4)


def test_a_node_is_busy_for_the_sum_and_backward_goes_first() -> None:
    """Devices that take no time: forward A, forward B (A's gradient comes too late), then both backward."""
    found = rehearsed(profile(), fleet(devices=2, hardware="idle"))
    computed = [(span.what, span.device) for span in found.spans if span.lane == COMPUTE and span.process == "node"]
    assert computed == [
        ("copy", "dev-1"), ("copy", "dev-2"), ("forward", "dev-1"), ("forward", "dev-2"), ("backward", "dev-1"),
        ("backward", "dev-2"), ("fold", "dev-1"), ("fold", "dev-2"),
    ]  # fmt: skip
    assert found.rounds[0].seconds == pytest.approx(2 * (20 + 40 + 2) / 1e3, rel=1e-4)
    assert found.busy_s["node", COMPUTE] == pytest.approx(2 * (20 + 40 + 2) / 1e3, rel=1e-6)


def test_one_at_a_time_is_one_after_the_other() -> None:
    together, apart = (seconds(profile(), fleet(devices=3), admit=admit) for admit in (3, 1))
    alone = seconds(profile(), fleet())
    assert apart == pytest.approx(3 * alone, rel=1e-4)
    assert together < 0.75 * apart


@pytest.mark.parametrize(("cores", "times"), [(1, 4.0), (2, 2.0), (4, 1.0), (8, 1.0)])
def test_devices_on_one_host_share_its_cores(cores: int, times: float) -> None:
    """No hops, four devices that only compute."""
    here = fleet(devices=4, batches=3, host="here", hosts=(FleetHost("here", cores),))
    planned = PlannedRun((), (), {device.id: () for device in here.expanded_devices()}, 4)
    found = Rehearsal(profile(), here, planned, "the plan").run(1)
    assert found.rounds[0].seconds == pytest.approx(times * 3 * 0.186, rel=1e-4)


def test_a_broker_that_takes_its_time_takes_it_once_for_every_byte() -> None:
    slow = fleet(broker=FleetBroker(1e12, 0.0, max_mb_per_s=10.0))
    passed = 2 * (OUTPUTS[0] + OUTPUTS[1]) + 2 * 4_000_000
    assert seconds(profile(), slow) == pytest.approx(seconds(profile(), fleet()) + passed / 10e6, rel=1e-4)


def test_a_trunk_that_all_share_sets_the_pace() -> None:
    """Everything passes the broker's link twice, once each way, and it is slower than all others."""
    idle = replace(HARDWARE, forward_ms=(0, 0, 0), backward_ms=(0, 0, 0), step_ms=())
    narrow = fleet(devices=8, broker=FleetBroker(80.0, 0.0))
    inward = 8 * (OUTPUTS[0] * 2 + OUTPUTS[1] * 2 + 4_000_000) + 2_000_000
    assert inward / 10e6 < seconds(profile(idle), narrow) < 2.2 * inward / 10e6


def test_micro_batches_overlap() -> None:
    whole, cut = (seconds(profile(), fleet(link=80.0, job=FleetJob(micro_batches=m))) for m in (1, 4))
    assert 0.4 * whole < cut < 0.95 * whole


def test_later_rounds_are_like_the_first_where_nothing_has_changed() -> None:
    rounds = [each.seconds for each in rehearsed(profile(), fleet(devices=3, batches=2), rounds=3).rounds]
    assert rounds == pytest.approx([rounds[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_the_unit_of_time_does_not_matter(scale: float) -> None:
    """A round of a millisecond and one of days: the machines' own timers disturb neither."""

    def scaled(values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(value * scale for value in values)

    hardware = HardwareTimes(scaled(HARDWARE.forward_ms), scaled(HARDWARE.backward_ms), scaled(HARDWARE.step_ms))
    base = seconds(profile(), fleet(devices=3, batches=4, up=8.0, down=8.0, link=80.0))
    rates = {"up": 8.0 / scale, "down": 8.0 / scale, "link": 80.0 / scale}
    assert seconds(profile(hardware), fleet(devices=3, batches=4, **rates)) == pytest.approx(scale * base, rel=1e-4)


def test_memory_is_the_part_and_what_is_admitted() -> None:
    job = FleetJob(optimizer="adam")
    found = rehearsed(profile(), fleet(devices=2, job=job))
    fixed = 3 * 2_000_000 + 4 * max(OUTPUTS) + SLACK_BYTES
    copy = 3 * 2_000_000 + OUTPUTS[0] + 2 * OUTPUTS[1] + 2 * WINDOW_BYTES
    stored = 7_000_000 + OUTPUTS[0]
    held = [size for _, size in found.memory["node"]]
    assert held[0] == held[-1] == fixed
    assert max(held) == fixed + 2 * copy + 2 * stored
    assert found.in_flight[-1][1] == 2_000_000, "the part is under way to the checkpoint"
    assert max(size for _, size in found.in_flight) >= 4_000_000


def random_plan(seed: int) -> tuple[Profile, Fleet, PlanFile] | None:
    known, members = random_case(random.Random(seed))
    try:
        return known, members, plan(system_of(known, members), Shape())
    except UsageError:
        return None


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_resource_works_faster_than_it_can(first: int) -> None:
    """Whatever the fleet: nobody is busy for less than its work takes, nor does two things at once."""
    cases = [case for seed in range(first, first + 20) if (case := random_plan(seed))]
    assert len(cases) > 10
    for known, members, found in cases:
        rehearsal = Rehearsal(known, members, found, "the plan", keep=True)
        timeline, system = rehearsal.run(1), rehearsal.system
        total = timeline.rounds[0].seconds
        assert total is not None
        kinds, phases = {node.id: node.hardware for node in members.expanded_nodes()}, phase_times(known)
        for seat in found.seats:
            served = [d for d in system.devices if found.devices[d.id][seat.stage - 1] == seat.replica]
            node = next(node for node in system.nodes if node.id == seat.node)
            part = system.parameters[seat.blocks[1]] - system.parameters[seat.blocks[0]]
            copies = 2 * len(served) * part * node.hardware.copy_s_per_byte
            needed = sum(d.batches for d in served) * sum(phases[kinds[seat.node]].of(seat.blocks)) + copies
            assert needed * (1 - 1e-6) <= timeline.busy_s.get((seat.node, COMPUTE), 0.0) <= total * (1 + 1e-9)
        lanes = defaultdict(list)
        for span in timeline.spans:
            lanes[span.process, span.lane].append(span)
            assert -1e-9 <= span.start <= span.end <= total * (1 + 1e-9)
        for spans in lanes.values():
            assert all(one.end <= other.start + 1e-9 * total for one, other in pairwise(spans))
        again = Rehearsal(known, members, found, "the plan").run(1)
        assert again.rounds[0].seconds == total


def test_the_rehearsal_and_the_objective_say_about_the_same() -> None:
    """The objective leaves out waiting and overlap, in either direction; on average they agree."""
    ratios = []
    for case in filter(None, map(random_plan, range(60))):
        simulated = simulated_seconds(*case, most=10**6)
        assert simulated is not None
        ratios.append(simulated / case[2].predicted.round_s)
    ratios.sort()
    assert 0.9 < ratios[len(ratios) // 2] < 1.1


def test_a_plan_of_too_many_messages_is_not_simulated_on_the_side() -> None:
    known, members = profile(), fleet(devices=2, batches=5)
    found = plan(system_of(known, members), Shape())
    assert simulated_seconds(known, members, found, most=7) is None
    assert simulated_seconds(known, members, found, most=8) is not None


def test_a_round_of_many_messages_is_told_from_a_shorter_one() -> None:
    known, members = profile(), fleet(devices=3, batches=20, up=80.0, down=80.0, link=800.0)
    found = plan(system_of(known, members), Shape())
    whole = simulated_seconds(known, members, found, most=240)
    shorter = simulated_seconds(known, members, found, most=60)
    assert whole == Rehearsal(known, members, found, "the plan").run(1).rounds[0].seconds
    assert shorter != whole
    assert shorter == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": (1, 3), "blocks": (1, 3)}, r"PLAN.json: cuts \[1, 3\] in a model of 3 blocks"),
        ({"node": "nod"}, "PLAN.json: node 'nod' is not in the fleet; did you mean 'node'"),
        ({"devices": {"dev": (0,), "div": (0,)}}, "PLAN.json: device 'div' is not in the fleet; did you mean 'dev'"),
        ({"devices": {}}, "PLAN.json: has no place for device 'dev' of the fleet"),
    ],
)
def test_a_plan_of_another_fleet_or_model_is_refused(change: dict[str, object], message: str) -> None:
    seat = PlannedSeat(1, 0, str(change.get("node", "node")), change.get("blocks", (1, 2)))  # type: ignore[arg-type]
    devices = change.get("devices", {"dev": (0,)})
    planned = PlannedRun(change.get("cuts", (1, 2)), (seat,), devices, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        Rehearsal(profile(), fleet(), planned, "PLAN.json")


def test_a_plan_that_does_not_fit_the_memory_is_refused() -> None:
    small = replace(fleet(), nodes=(FleetNode("node", "any", 0.01, 1.0, 1, 100.0),))
    with pytest.raises(
        UsageError,
        match=r"PLAN.json: .*blocks \[1, 2\) with 1 device .* on node 'node', \d+ over its 10737418",
    ):
        Rehearsal(profile(), small, chain(small), "PLAN.json")


def test_metrics_are_shares_of_the_rounds() -> None:
    timeline = rehearsed(profile(), fleet(devices=2, hardware="idle"), rounds=2)
    found = metrics_of(timeline, ["node"])
    assert len(found.rounds_s) == 2
    assert found.simulated_s == pytest.approx(2 * 0.062, rel=1e-4)
    assert found.nodes["node"].compute == pytest.approx(1.0, rel=1e-3)
    assert 0 <= found.mean_in_flight_bytes < found.peak_in_flight_bytes


def test_a_thinned_curve_keeps_its_peak() -> None:
    points = [(number / 1000, 10**9 if number == 777 else number % 7) for number in range(1000)]
    curve = thinned(points, 1.0)
    assert len(curve) <= MAX_POINTS
    assert max(size for _, size in curve) == 10**9
    assert thinned(points[:5], 1.0) == tuple(points[:5])
    assert len(thinned(points, 0.0)) <= MAX_POINTS
