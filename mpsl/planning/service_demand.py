"""The service demand of one seat and of one device: seconds on each of its resources, and bytes of memory.

In operational analysis (Lazowska et al., Quantitative System Performance, 1984, chapter 3), a service demand is the
time that one resource spends on one unit of work. The objective calls these functions with numbers and the search with
arrays of cuts, so that both use the same formulas. Nothing here may decide or compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsl.planning.seat_memory import PartSizes, SeatMemory, device_bytes, in_memory
from mpsl.planning.system import Device, Node, System

Number = Any
"""A float, or an array of floats with one entry for each pair of cuts."""

SEAT, NODE_LINK, BROKER, DEVICE, ADMISSION = "seat", "node-link", "broker", "device", "admission"
"""The kinds of a bottleneck."""


@dataclass(frozen=True)
class ResourceDemand:
    """Seconds that one resource is busy per batch, per device and per round."""

    kind: str
    batch: Number
    device: Number
    round: Number

    def seconds(self, batches: Number, devices: Number) -> Number:
        """Return the seconds of a round with this many batches and devices."""
        return self.batch * batches + self.device * devices + self.round


@dataclass(frozen=True)
class SeatDemand:
    """The demand of blocks [a, b) on one node."""

    resources: tuple[ResourceDemand, ...]
    """The processor first, then the link in each direction, CPU for the wire, and the node's cores if known."""
    core_seconds: ResourceDemand
    """Core-seconds that it takes from its host."""
    latency: Number
    """Seconds that a batch spends on this node and its link in an empty system; micro-batches overlap."""
    slowest: Number
    """Seconds per batch of its slowest machine."""
    memory: SeatMemory

    def full_load_s(self, batches: float, devices: float) -> Number:
        """Seconds of its busiest resource for everything, except for the weights once per round."""
        loads = [busy.batch * batches + busy.device * devices for busy in self.resources]
        return _maximum(loads)


def seat_demand(
    system: System, node: Node, start: Number, end: Number, arrays: "SystemArrays | None" = None
) -> SeatDemand:
    """Return the demand of blocks [start, end) on `node`. With `arrays`, `start` and `end` may be arrays of indices."""
    source: Any = arrays or system
    hardware = node.hardware
    seconds = arrays.seconds[id(hardware)] if arrays else hardware.seconds
    compute = seconds[end] - seconds[start]
    part = source.parameters[end] - source.parameters[start]
    bytes_in = source.activation[start] + source.gradient[end]
    bytes_out = source.activation[end] + source.gradient[start]
    fold = 2 * part * hardware.copy_s_per_byte
    wire = (bytes_in + bytes_out) * hardware.wire_s_per_byte
    wire_round = 2 * part * hardware.wire_s_per_byte
    link_in, link_out, link_round = bytes_in / node.rate, bytes_out / node.rate, part / node.rate
    cores = ResourceDemand(SEAT, compute * hardware.threads + wire, fold * hardware.threads, wire_round)
    resources = [
        ResourceDemand(SEAT, compute, fold, 0.0),
        ResourceDemand(NODE_LINK, link_in, 0.0, link_round),
        ResourceDemand(NODE_LINK, link_out, 0.0, link_round),
        ResourceDemand(NODE_LINK, wire, 0.0, wire_round),
    ]
    if node.host is None and hardware.cores < float("inf"):
        own = hardware.cores
        resources.append(ResourceDemand(SEAT, cores.batch / own, cores.device / own, cores.round / own))
    work = compute + wire + link_in + link_out
    return SeatDemand(
        resources=tuple(resources),
        core_seconds=cores,
        latency=4 * system.broker_latency + work / system.micro_batches,
        slowest=_maximum([compute, wire, link_in, link_out]),
        memory=seat_memory(system, start, end, arrays),
    )


def seat_memory(system: System, start: Number, end: Number, arrays: "SystemArrays | None" = None) -> SeatMemory:
    """Return the needs of a seat of blocks [start, end). With `arrays`, `start` and `end` may be arrays of indices."""
    source: Any = arrays or system
    part = PartSizes(
        state=source.parameters[end] - source.parameters[start],
        largest_block_state=source.largest_block_parameters(start, end),
        optimizer=source.optimizer[end] - source.optimizer[start],
        stored=source.stored[end] - source.stored[start],
        input=source.output[start],
        output=source.output[end],
        largest_activation=source.largest_output(start, end),
        frozen=source.frozen[end] - source.frozen[start],
    )
    return in_memory(part, system.micro_batches)


@dataclass(frozen=True)
class DeviceDemand:
    """The demand of blocks [0, first) and [last, end) on one device."""

    latency: Number
    """Seconds of a batch on the device and its link in an empty system, micro-batches overlap."""
    slowest: Number
    """Seconds per batch of its slowest machine."""
    weights: Number
    """Seconds of a round for sending its parts to it and back."""
    core_seconds: Number
    """Core-seconds of a round that it takes from its host."""
    memory_bytes: Number


def device_demand(
    system: System, device: Device, first: Number, last: Number, arrays: "SystemArrays | None" = None
) -> DeviceDemand:
    """Return the demand on `device` with cuts[0] = `first` and cuts[-1] = `last`. With `arrays`, both may be arrays."""
    source: Any = arrays or system
    hardware = device.hardware
    seconds = arrays.seconds[id(hardware)] if arrays else hardware.seconds
    compute = seconds[first] + seconds[-1] - seconds[last]
    out = source.activation[first] + source.gradient[last]
    back = source.activation[last] + source.gradient[first]
    wire = (out + back) * hardware.wire_s_per_byte
    up, down = out / device.up, back / device.down
    part = source.parameters[first] + source.parameters[-1] - source.parameters[last]
    stored = source.stored[first] + source.stored[-1] - source.stored[last]
    optimizer = source.optimizer[first] + source.optimizer[-1] - source.optimizer[last]
    frozen = source.frozen[first] + source.frozen[-1] - source.frozen[last]
    weights_wire = 2 * part * hardware.wire_s_per_byte
    return DeviceDemand(
        latency=4 * device.latency + (compute + wire + up + down) / system.micro_batches,
        slowest=_maximum([compute, wire, up, down]),
        weights=part / device.up + part / device.down + weights_wire + 2 * device.latency,
        core_seconds=device.batches * (compute * hardware.threads + wire) + weights_wire,
        memory_bytes=device_bytes(part, stored, source.output[0] + source.output[last], optimizer, frozen),
    )


def whole_model_demand(system: System, device: Device) -> DeviceDemand:
    """Return the demand on `device` without hops: it keeps the whole model, and only weights are sent."""
    hardware, part = device.hardware, system.parameters[-1]
    compute = hardware.seconds[-1]
    weights_wire = 2 * part * hardware.wire_s_per_byte
    return DeviceDemand(
        latency=compute,
        slowest=0.0,
        weights=part / device.up + part / device.down + weights_wire + 2 * device.latency,
        core_seconds=device.batches * compute * hardware.threads + weights_wire,
        memory_bytes=device_bytes(part, system.stored[-1], system.output[0], system.optimizer[-1], system.frozen[-1]),
    )


def device_parameter_bytes(system: System, cuts: Sequence[int]) -> int:
    """Bytes of the parameters that a device keeps."""
    whole = system.parameters[-1]
    return system.parameters[cuts[0]] + whole - system.parameters[cuts[-1]] if cuts else whole


class SystemArrays:
    """A system's figures at each cut as arrays, so that `seat_demand` takes many pairs of cuts at once."""

    def __init__(self, system: System) -> None:
        self.parameters = np.array(system.parameters, float)
        self.optimizer = np.array(system.optimizer, float)
        self.stored = np.array(system.stored, float)
        self.frozen = np.array(system.frozen, float)
        self.output = np.array(system.output, float)
        self.activation = np.array(system.activation)
        self.gradient = np.array(system.gradient)
        self.crossing = np.array(system.crossing)
        members: tuple[Device | Node, ...] = (*system.nodes, *system.devices)
        self.seconds: dict[int, NDArray[np.float64]] = {
            id(member.hardware): np.array(member.hardware.seconds) for member in members
        }
        """Prefix sums by the identity of the hardware, because comparing figures would take too long."""
        self._largest_block_parameters = _running_maxima(np.diff(self.parameters))
        self._largest_output = _running_maxima(self.output)

    def largest_block_parameters(self, start: Number, end: Number) -> Number:
        """Like `System.largest_block_parameters`."""
        return self._largest_block_parameters[start, end - 1]

    def largest_output(self, start: Number, end: Number) -> Number:
        """Like `System.largest_output`."""
        return self._largest_output[start, end]


def _running_maxima(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [a, b]: the largest of values a … b."""
    maxima = np.zeros((len(values), len(values)))
    for first in range(len(values)):
        maxima[first, first:] = np.maximum.accumulate(values[first:])
    return maxima


def _maximum(figures: list[Number]) -> Number:
    if isinstance(figures[0], np.ndarray):
        return np.maximum.reduce(figures)
    return max(figures)
