"""This machine as a fleet: the measured cost of a model, and all participants as processes of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

from broker.hardware import usable_cores
from broker.slow_link import parse_link
from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.nn.block_sizes import profile_of_sizes
from mpsl.nn.models import arguments
from mpsl.planning.feasibility import judge
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.objective import Shape, check_shape
from mpsl.planning.plan_file import PlannedRun, PlannedSeat
from mpsl.planning.profile_file import Profile
from mpsl.planning.system import system_of
from mpsl.sim.rehearsal import Rehearsal
from orchestrator.commands.profile import times
from orchestrator.measuring import Measured, MeasuringTask, measure
from orchestrator.wire_cost import WireCost, wire_cost

CIFAR = {"num_classes": 10, "in_channels": 3, "image_size": 32}
HERE = "here"
FAST_MBPS = 1e6
"""A link within one machine costs only CPU time per byte, which the profile has."""
ALONE, BESIDE = "alone", "beside"
"""The two kinds of hardware: a core while one process computes, and a core while all cores compute."""
MAX_SLOWDOWN = 0.03
"""The accepted relative slowdown of a round if devices then hold fewer blocks."""
PASSES = 3
PASS_S = 7.0
SPEED_CHECK_S = 3.0
MAX_FIRST_CUT = 3
"""Maximum number of blocks on devices before the first hop, because devices have little memory."""


@dataclass(frozen=True)
class BenchmarkModel:
    """A model to measure, its arguments and its batch size."""

    name: str
    batch_size: int
    head: str | None = None

    @property
    def args(self) -> dict[str, Any]:
        """The arguments for 10 classes and 32×32 images, as far as the model has them."""
        found = {key: value for key, value in CIFAR.items() if key in arguments(self.name)}
        return found | ({"head": self.head} if self.head else {})


@dataclass(frozen=True)
class Known:
    """The measurements of a model, made once before any prediction."""

    model: BenchmarkModel
    profile: Profile
    cost: WireCost
    whole_s: float
    """Seconds of a batch of the whole model while all cores compute."""


def measured(models: Sequence[BenchmarkModel]) -> list[Known]:
    """Profile models on this machine, alone and with all cores computing, and the cost of a byte.

    The result is the median of several passes over everything, because the speed of a shared machine drifts.
    """
    cores = usable_cores()
    kinds = {ALONE: 1, BESIDE: cores}
    tasks = [_task(model, PASS_S) for model in models]
    passes = [[[measure(task, copies) for copies in kinds.values()] for task in tasks] for _ in range(PASSES)]
    known = []
    for place, model in enumerate(models):
        sizes = profile_of_sizes(tasks[place].model, model.batch_size)
        found = [_middle([each[place][kind] for each in passes]) for kind in range(len(kinds))]
        cost = wire_cost(sizes, "auto", tasks[place], cores, found[-1].whole)
        assert cost is not None, "models that are measured here have a block for a hop"
        hardware = {kind: times(each, cost.end, cores, 1) for kind, each in zip(kinds, found, strict=True)}
        known.append(Known(model, replace(sizes, hardware=hardware), cost, found[-1].whole))
    return known


def slowness(known: Known) -> float:
    """The ratio of the present time of a batch to the time in the profile."""
    return measure(_task(known.model, SPEED_CHECK_S), usable_cores()).whole / known.whole_s


def slowed(profile: Profile, times_as_long: float) -> Profile:
    """The profile with all computing times multiplied by a factor."""

    def longer(times_ms: Sequence[float]) -> tuple[float, ...]:
        return tuple(each * times_as_long for each in times_ms)

    hardware = {
        name: replace(
            each,
            forward_ms=longer(each.forward_ms),
            backward_ms=longer(each.backward_ms),
            step_ms=longer(each.step_ms),
            wire_cpu_s_per_gb=each.wire_cpu_s_per_gb * times_as_long,
        )
        for name, each in profile.hardware.items()
    }
    return replace(profile, hardware=hardware)


def _task(model: BenchmarkModel, seconds: float) -> MeasuringTask:
    return MeasuringTask(ModelSection(model.name, model.args), model.batch_size, "momentum", 1, seconds)


def _middle(passes: Sequence[Measured]) -> Measured:
    """Return the pass with the median time of the whole model, because the block times of one pass belong together."""
    return sorted(passes, key=lambda each: each.whole)[len(passes) // 2]


def fleet_of(known: Known, hops: int, devices: int, batches: int, link: str = "none", first_cut: int = 1) -> Fleet:
    """Return a system whose participants are processes here, with `batches` batches per device; `link` as in --link."""
    speed = None if link == "none" else parse_link(link)
    mbps = FAST_MBPS if speed is None else speed.bytes_per_s * 8 / 1e6
    latency = 0.0 if speed is None else speed.latency_s * 1e3
    kind = ALONE if hops == 1 else BESIDE
    samples = batches * known.model.batch_size
    return Fleet(
        devices=(FleetDevice("dev", BESIDE, samples, devices, mbps, mbps, latency, host=HERE),),
        nodes=(FleetNode("node", kind, 64.0, 0.0, hops, FAST_MBPS, HERE),),
        broker=FleetBroker(FAST_MBPS, 0.0, 1e3 / known.cost.broker, HERE),
        hosts=(FleetHost(HERE, usable_cores()),),
        job=FleetJob(first_cut=first_cut, last_cut=len(known.profile.blocks) - 1, optimizer="momentum"),
    )


def parse_cuts(text: str, hops: int) -> tuple[int, ...]:
    """Parse cuts such as "2,5,9" for 2 hops. Raises UsageError."""
    try:
        cuts = tuple(int(cut) for cut in text.split(","))
    except ValueError:
        raise UsageError(f"--cuts {text!r}: write indices into the model's blocks, such as 2,5,9") from None
    if len(cuts) != hops + 1:
        raise UsageError(f"--cuts {text!r}: {len(cuts)} cuts, but --hops {hops} needs {hops + 1}")
    return cuts


def chain(cuts: Sequence[int], devices: int) -> PlannedRun:
    """Return the run with these cuts, one node per hop, and all devices admitted at once."""
    seats = tuple(PlannedSeat(k, 0, _numbered("node", k, len(cuts) - 1), ab) for k, ab in enumerate(pairwise(cuts), 1))
    ids = (_numbered("dev", number, devices) for number in range(1, devices + 1))
    return PlannedRun(tuple(cuts), seats, {id: (0,) * len(seats) for id in ids}, devices)


def best_cuts(known: Known, hops: int, devices: int, batches: int) -> tuple[int, ...]:
    """Return the cuts with the fewest blocks on devices and a simulated round within MAX_SLOWDOWN of the shortest.

    If devices hold the first block alone, the nodes may get unequal work, and one of them waits. The objective does not
    show this, because on one machine all cuts have the same sum of work. Raises UsageError.
    """
    fleet = fleet_of(known, hops, devices, batches)
    free = replace(fleet, job=replace(fleet.job, first_cut=None))
    check_shape(system_of(known.profile, free), Shape(hops))
    last = len(known.profile.blocks) - 1
    firsts = range(1, min(MAX_FIRST_CUT, last - hops) + 1)
    candidates = [(first, *inner, last) for first in firsts for inner in combinations(range(first + 1, last), hops - 1)]
    judged = {cuts: judge(system_of(known.profile, free), chain(cuts, devices), "cuts").round_s for cuts in candidates}
    worth = [cuts for cuts in candidates if judged[cuts] <= (1 + MAX_SLOWDOWN) * min(judged.values())]
    seconds = {cuts: rehearsed(known.profile, free, chain(cuts, devices), 1) for cuts in worth}
    good = [cuts for cuts in worth if seconds[cuts] <= (1 + MAX_SLOWDOWN) * min(seconds.values())]
    return min(good, key=lambda cuts: (cuts[0], seconds[cuts]))


def rehearsed(profile: Profile, fleet: Fleet, planned: PlannedRun, rounds: int) -> float:
    """Return the seconds of the last of `rounds` rounds in the simulator."""
    seconds = Rehearsal(profile, fleet, planned, "the plan").run(rounds).rounds[-1].seconds
    assert seconds is not None
    return seconds


def _numbered(name: str, number: int, count: int) -> str:
    """Return an id of a fleet entry, numbered like in the fleet."""
    return name if count == 1 else f"{name}-{number}"
