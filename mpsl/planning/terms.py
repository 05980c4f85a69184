"""What one seat and one device do for a batch, in seconds and bytes: the terms that the objective sums.

The objective calls these with numbers, the solver with arrays of cuts, so that both add up the very same formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.memory import device_bytes, seat_copy_bytes, seat_fixed_bytes
from mpsl.planning.system import Device, Node, System

Figure = Any
"""A float, or an array of floats with one entry for each pair of cuts."""

SEAT, NODE_LINK, BROKER, DEVICE, ADMISSION = "seat", "node-link", "broker", "device", "admission"
"""The kinds of a bottleneck."""


@dataclass(frozen=True)
class Busy:
    """Seconds that one resource is busy: so much per batch, per device and per round."""

    kind: str
    batch: Figure
    device: Figure
    round: Figure

    def seconds(self, batches: Figure, devices: Figure) -> Figure:
        """Over a round in which so many batches of so many devices pass."""
        return self.batch * batches + self.device * devices + self.round


@dataclass(frozen=True)
class SeatTerms:
    """One node with blocks [a, b)."""

    resources: tuple[Busy, ...]
    """Its processor, its link in each direction, its CPU for the wire, and where known its cores."""
    core_seconds: Busy
    """What it takes from the cores of its host."""
    latency: Figure
    """Seconds that a batch spends here and on this node's link in an empty system, micro-batches overlapping."""
    slowest: Figure
    """Seconds per batch of its slowest machine."""
    fixed_bytes: Figure
    copy_bytes: Figure

    def full_load(self, batches: float, devices: float) -> Figure:
        """Seconds that its busiest resource would take for everything, without the weights' way once a round."""
        loads = [busy.batch * batches + busy.device * devices for busy in self.resources]
        return _largest(loads)


def seat_terms(system: System, node: Node, start: Figure, end: Figure, columns: "Columns | None" = None) -> SeatTerms:
    """The terms of blocks [start, end) on `node`. With `columns`, `start` and `end` may be arrays of indices."""
    source: Any = columns or system
    hardware = node.hardware
    seconds = columns.seconds[id(hardware)] if columns else hardware.seconds
    compute = seconds[end] - seconds[start]
    part = source.parameters[end] - source.parameters[start]
    stored = source.stored[end] - source.stored[start]
    bytes_in = source.activation[start] + source.gradient[end]
    bytes_out = source.activation[end] + source.gradient[start]
    fold = 2 * part * hardware.copy_s_per_byte
    wire = (bytes_in + bytes_out) * hardware.wire_s_per_byte
    wire_round = 2 * part * hardware.wire_s_per_byte
    link_in, link_out, link_round = bytes_in / node.rate, bytes_out / node.rate, part / node.rate
    cores = Busy(SEAT, compute * hardware.threads + wire, fold * hardware.threads, wire_round)
    resources = [
        Busy(SEAT, compute, fold, 0.0),
        Busy(NODE_LINK, link_in, 0.0, link_round),
        Busy(NODE_LINK, link_out, 0.0, link_round),
        Busy(NODE_LINK, wire, 0.0, wire_round),
    ]
    if node.host is None and hardware.cores < float("inf"):
        own = hardware.cores
        resources.append(Busy(SEAT, cores.batch / own, cores.device / own, cores.round / own))
    work = compute + wire + link_in + link_out
    return SeatTerms(
        resources=tuple(resources),
        core_seconds=cores,
        latency=4 * system.broker_latency + work / system.micro_batches,
        slowest=_largest([compute, wire, link_in, link_out]),
        fixed_bytes=seat_fixed_bytes(part),
        copy_bytes=seat_copy_bytes(part, stored, source.output[start], system.optimizer_states),
    )


@dataclass(frozen=True)
class DeviceTerms:
    """One device that keeps blocks [0, first) and [last, end)."""

    latency: Figure
    """Seconds of a batch on the device and its link in an empty system, micro-batches overlapping."""
    slowest: Figure
    """Seconds per batch of its slowest machine."""
    weights: Figure
    """Seconds a round for its parts to come and go."""
    core_seconds: Figure
    """What it takes from the cores of its host in a round."""
    memory_bytes: Figure


def device_terms(
    system: System, device: Device, first: Figure, last: Figure, columns: "Columns | None" = None
) -> DeviceTerms:
    """The terms of `device` with cuts[0] = `first` and cuts[-1] = `last`. With `columns`, both may be arrays."""
    source: Any = columns or system
    hardware = device.hardware
    seconds = columns.seconds[id(hardware)] if columns else hardware.seconds
    compute = seconds[first] + seconds[-1] - seconds[last]
    out = source.activation[first] + source.gradient[last]
    back = source.activation[last] + source.gradient[first]
    wire = (out + back) * hardware.wire_s_per_byte
    up, down = out / device.up, back / device.down
    part = source.parameters[first] + source.parameters[-1] - source.parameters[last]
    stored = source.stored[first] + source.stored[-1] - source.stored[last]
    weights_wire = 2 * part * hardware.wire_s_per_byte
    return DeviceTerms(
        latency=4 * device.latency + (compute + wire + up + down) / system.micro_batches,
        slowest=_largest([compute, wire, up, down]),
        weights=part / device.up + part / device.down + weights_wire + 2 * device.latency,
        core_seconds=device.batches * (compute * hardware.threads + wire) + weights_wire,
        memory_bytes=device_bytes(part, stored, source.output[0] + source.output[last], system.optimizer_states),
    )


def whole_model_terms(system: System, device: Device) -> DeviceTerms:
    """The terms of `device` where there are no hops: it keeps the whole model and only weights travel."""
    hardware, part = device.hardware, system.parameters[-1]
    compute = hardware.seconds[-1]
    weights_wire = 2 * part * hardware.wire_s_per_byte
    return DeviceTerms(
        latency=compute,
        slowest=0.0,
        weights=part / device.up + part / device.down + weights_wire + 2 * device.latency,
        core_seconds=device.batches * compute * hardware.threads + weights_wire,
        memory_bytes=device_bytes(part, system.stored[-1], system.output[0], system.optimizer_states),
    )


def device_parameters(system: System, cuts: Sequence[int]) -> int:
    """Bytes of the parameters that a device keeps."""
    whole = system.parameters[-1]
    return system.parameters[cuts[0]] + whole - system.parameters[cuts[-1]] if cuts else whole


class Columns:
    """A system's per-cut figures as arrays, so that `seat_terms` takes many pairs of cuts at once."""

    def __init__(self, system: System) -> None:
        self.parameters = np.array(system.parameters, float)
        self.stored = np.array(system.stored, float)
        self.output = np.array(system.output, float)
        self.activation = np.array(system.activation)
        self.gradient = np.array(system.gradient)
        self.crossing = np.array(system.crossing)
        members: tuple[Device | Node, ...] = (*system.nodes, *system.devices)
        self.seconds: dict[int, NDArray[np.float64]] = {
            id(member.hardware): np.array(member.hardware.seconds) for member in members
        }
        """By the identity of the hardware, because comparing its figures would take longer than using them."""


def _largest(figures: list[Figure]) -> Figure:
    if isinstance(figures[0], np.ndarray):
        return np.maximum.reduce(figures)
    return max(figures)
