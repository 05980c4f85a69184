"""The objective: a placement's round time, bottleneck, memory and money. One formula, for any assignment of devices.

T = the busy seconds of the busiest resource in a round + one batch's latency through the empty system.

Method: bottleneck analysis of a closed queueing network (asymptotic bounds; Lazowska et al., Quantitative System
Performance, 1984, chapter 5). The pipeline of a round follows Tirana et al., MP-SL (arXiv 2402.00208) and EdgeSys '25,
but one thread does forward and backward, so a seat is busy for their sum. docs/planner.md explains every term.
This file judges placements and never looks for one; a brute force may call it on all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mpsl.admission_limit import admission_waves, largest_admission, seat_admission, starting_admission
from mpsl.errors import UsageError
from mpsl.planning.service_demand import (
    ADMISSION,
    BROKER,
    DEVICE,
    SEAT,
    DeviceDemand,
    SeatDemand,
    device_demand,
    device_parameter_bytes,
    seat_demand,
    whole_model_demand,
)
from mpsl.planning.system import System

NO_TIME = 1e-200
"""Seconds that replace a load of 0, so that speeds stay finite."""


@dataclass(frozen=True)
class Placement:
    """Where the model is cut and which nodes (indices into `System.nodes`) take each stage, in replica order."""

    cuts: tuple[int, ...]
    stages: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if len(self.cuts) != (len(self.stages) + 1 if self.stages else 0):
            raise ValueError(f"{len(self.cuts)} cuts for {len(self.stages)} stages; N stages have N + 1 cuts")


@dataclass(frozen=True)
class Shape:
    """Which placements are allowed: exactly `hops` stages of one replica, or with None any stages of any replicas.

    `all_in_one` asks for one stage with every node as a replica.
    """

    hops: int | None = None
    all_in_one: bool = False


@dataclass(frozen=True)
class SeatLoad:
    """The load of a seat in a round; fractions if shares are fluid."""

    batches: float
    devices: float


@dataclass(frozen=True)
class Prediction:
    """The judgement of one placement. Seconds of a round unless said otherwise."""

    round_s: float
    batch_s: float
    """One batch's latency through the empty system: the slowest device's cycle."""
    bottleneck: tuple[str, str]
    """Kind and id."""
    bottleneck_s: float
    """Seconds a round that the bottleneck is busy."""
    admit: int
    node_bytes: dict[str, int]
    cost: float
    device_s: tuple[float, ...]
    """The round of each device if it were alone in the system, in seconds, in the order of `System.devices`."""


def check_shape(system: System, shape: Shape) -> None:
    """Raise UsageError if `shape` needs more nodes or blocks than `system` has."""
    nodes, wanted = len(system.nodes), shape.hops or 1
    need = f"{wanted} hops need" if wanted > 1 else "1 hop needs"
    if nodes < wanted:
        raise UsageError(f"{need} {wanted} nodes, but the fleet has {nodes}; add [[nodes]] or ask for fewer hops")
    if shape.hops is not None and system.max_hops is not None and shape.hops > system.max_hops:
        raise UsageError(f"{shape.hops} hops are requested, but the fleet's job allows max_hops = {system.max_hops}")
    first, last = system.first_cut or 1, system.last_cut or system.blocks - 1
    if system.first_cut is None and system.last_cut is None and last - first < wanted:
        raise UsageError(
            f"{need} a model of at least {wanted + 2} blocks, because the devices keep the first and the last; "
            f"this one has {system.blocks}"
        )
    if last - first < wanted:
        raise UsageError(
            f"{need} at least {wanted} block{'s' * (wanted > 1)} between the device's parts, but cuts[0] = {first} and "
            f"cuts[-1] = {last} leave {max(0, last - first)} of the model's {system.blocks}"
        )


def fluid_loads(system: System, placement: Placement) -> list[list[SeatLoad]]:
    """Divide each stage's devices in proportion to its replicas' speeds, as if devices were divisible."""
    loads = []
    for part, stage in stages_of(placement):
        full = [
            seat_demand(system, system.nodes[node], *part).full_load_s(system.batches, len(system.devices))
            for node in stage
        ]
        loads.append([SeatLoad(system.batches * share, len(system.devices) * share) for share in fluid_shares(full)])
    return loads


def fluid_shares(full_loads: Sequence[float]) -> list[float]:
    """Return shares with sum 1, inverse to the seconds that each replica would need for everything."""
    speeds = [1 / max(full, NO_TIME) for full in full_loads]
    return [speed / sum(speeds) for speed in speeds]


def predict(
    system: System,
    placement: Placement,
    loads: Sequence[Sequence[SeatLoad]],
    replicas: Sequence[Sequence[int]] | None = None,
) -> Prediction | None:
    """Judge `placement` if seat r of stage k serves `loads[k][r]`. Returns None if a part does not fit its memory.

    `replicas[k][d]` is the replica of stage k that serves device d. Without it, devices are divided and a device's
    batches pass the slowest replica of each stage.
    """
    devices = _devices(system, placement)
    if any(demand.memory_bytes > device.memory for demand, device in zip(devices, system.devices, strict=True)):
        return None
    seats = [
        (node, seat_demand(system, system.nodes[node], *part), load)
        for (part, stage), stage_loads in zip(stages_of(placement), loads, strict=True)
        for node, load in zip(stage, stage_loads, strict=True)
    ]
    largest = _memory_admission(system, seats)
    if largest == 0:
        return None
    passed = _broker_bytes(system, placement, device_parameter_bytes(system, placement.cuts))
    resources = [(passed / system.broker_rate, BROKER, "broker"), *_hosts(system, seats, devices, passed)]
    for node, demand, load in seats:
        for busy in demand.resources:
            resources.append((busy.seconds(load.batches, load.devices), busy.kind, system.nodes[node].id))
    pace = max(seconds for seconds, _, _ in resources) / system.batches
    cycles = _cycles(system, placement, devices, replicas)
    rounds = [
        device.batches * cycle + demand.weights
        for device, cycle, demand in zip(system.devices, cycles, devices, strict=True)
    ]
    resources += [(seconds, DEVICE, device.id) for seconds, device in zip(rounds, system.devices, strict=True)]
    admit = system.admit
    if admit is None:
        wanted = starting_admission(len(devices), sum(rounds) / system.batches, pace) if seats else len(devices)
        admit = min(wanted, largest)
    resources.append((sum(rounds) * admission_waves(len(devices), admit) / len(devices), ADMISSION, "orch"))
    busiest, kind, identity = max(resources, key=lambda resource: resource[0])
    round_s = busiest + max(cycles)
    return Prediction(
        round_s=round_s,
        batch_s=max(cycles),
        bottleneck=(kind, identity),
        bottleneck_s=busiest,
        admit=admit,
        node_bytes={
            system.nodes[node].id: demand.memory.needed(seat_admission(admit, load.devices / len(devices)))
            for node, demand, load in seats
        },
        cost=round_s * sum(system.nodes[node].price for node, _, _ in seats),
        device_s=tuple(rounds),
    )


_Seats = Sequence[tuple[int, SeatDemand, SeatLoad]]


def _memory_admission(system: System, seats: _Seats) -> int:
    """Return the largest G that every seat's memory allows; 0 if nothing fits, or less than the job fixes."""
    largest = len(system.devices)
    for node, demand, load in seats:
        copies = demand.memory.copies(system.nodes[node].memory)
        if copies < 1:
            return 0
        largest = min(largest, largest_admission(copies, load.devices / len(system.devices), len(system.devices)))
    return 0 if system.admit is not None and largest < system.admit else largest


def _cycles(
    system: System,
    placement: Placement,
    devices: Sequence[DeviceDemand],
    replicas: Sequence[Sequence[int]] | None,
) -> list[float]:
    """Return the seconds of each device's whole batch update in an empty system."""
    passing = sum(system.crossing[cut] for cut in placement.cuts) * system.broker_s_per_byte
    stages = [
        [seat_demand(system, system.nodes[node], *part) for node in stage] for part, stage in stages_of(placement)
    ]
    cycles = []
    for place, device in enumerate(devices):
        seats = stages
        if replicas is not None:
            seats = [[stage[chosen[place]]] for stage, chosen in zip(stages, replicas, strict=True)]
        latency = passing + sum(max(seat.latency for seat in stage) for stage in seats)
        slowest = max(float(device.slowest), *(seat.slowest for stage in seats for seat in stage), 0.0)
        cycles.append(device.latency + latency + system.waiting_share * slowest)
    return cycles


def _broker_bytes(system: System, placement: Placement, device_part: int) -> float:
    """Return the bytes through the broker in a round: every batch at every cut, and all weights in both directions."""
    parts = sum(
        len(stage) * (system.parameters[end] - system.parameters[start]) for (start, end), stage in stages_of(placement)
    )
    crossing = sum(system.crossing[cut] for cut in placement.cuts)
    return system.batches * crossing + 2 * (parts + device_part * len(system.devices))


def _hosts(
    system: System, seats: _Seats, devices: Sequence[DeviceDemand], passed: float
) -> list[tuple[float, str, str]]:
    """Return each host's seconds, divided by its cores, named after the process that takes most of them."""
    found = []
    for host, cores in system.hosts.items():
        members = [
            (demand.core_seconds.seconds(load.batches, load.devices), SEAT, system.nodes[node].id)
            for node, demand, load in seats
            if system.nodes[node].host == host
        ]
        members += [
            (demand.core_seconds, DEVICE, device.id)
            for device, demand in zip(system.devices, devices, strict=True)
            if device.host == host
        ]
        if system.broker_host == host:
            members.append((passed * system.broker_s_per_byte, BROKER, "broker"))
        if members:
            _, kind, identity = max(members)
            found.append((sum(seconds for seconds, _, _ in members) / cores, kind, identity))
    return found


def stages_of(placement: Placement) -> list[tuple[tuple[int, int], tuple[int, ...]]]:
    """Return each stage's blocks [a, b) and its nodes."""
    return list(zip(zip(placement.cuts, placement.cuts[1:], strict=False), placement.stages, strict=True))


def _devices(system: System, placement: Placement) -> list[DeviceDemand]:
    if not placement.cuts:
        return [whole_model_demand(system, device) for device in system.devices]
    return [device_demand(system, device, placement.cuts[0], placement.cuts[-1]) for device in system.devices]
