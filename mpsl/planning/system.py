"""A profile and a fleet as one set of figures in seconds and bytes, ready to be added up.

Every conversion of units happens here, and every name is resolved here. Nothing here decides anything.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf

from mpsl.codecs import parse
from mpsl.errors import UsageError
from mpsl.names import nearest
from mpsl.nn.optimizers import block_state_bytes
from mpsl.planning.fleet import Fleet
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.seat_memory import GIB
from mpsl.profile_questions import optimizer_section

FLOAT_BYTES = 4
"""Bytes of an fp32 value."""


@dataclass(frozen=True)
class Hardware:
    """One kind of processor. `seconds[b]` is forward, backward and step of blocks 0 … b-1 for one batch."""

    seconds: tuple[float, ...]
    wire_s_per_byte: float
    copy_s_per_byte: float
    threads: int
    cores: float
    """The cores of one process on its own machine; infinite if unknown."""


@dataclass(frozen=True)
class Device:
    """One device; rates in bytes/s, capped by the broker's link; `batches` in one round."""

    id: str
    hardware: Hardware
    batches: int
    up: float
    down: float
    latency: float
    memory: float
    host: str | None


@dataclass(frozen=True)
class Node:
    """One compute node; `rate` in bytes/s each way, capped by the broker's link; `price` per second."""

    id: str
    hardware: Hardware
    memory: float
    rate: float
    price: float
    host: str | None


@dataclass(frozen=True)
class System:
    """Everything that the objective adds up. Byte figures at cut c (0 … blocks) are of the tensor that crosses it."""

    names: tuple[str, ...]
    parameters: tuple[int, ...]
    """parameters[b] = bytes of the parameters of blocks 0 … b-1."""
    optimizer: tuple[int, ...]
    """optimizer[b] = bytes of the optimizer's state for blocks 0 … b-1."""
    stored: tuple[int, ...]
    """stored[b] = bytes that autograd keeps of blocks 0 … b-1."""
    frozen: tuple[int, ...]
    """frozen[b] = bytes of further parameters of blocks 0 … b-1, which do not train."""
    output: tuple[int, ...]
    """fp32 bytes of one batch's tensor at each cut; output[0] is the input."""
    activation: tuple[float, ...]
    """Wire bytes forward at each cut."""
    gradient: tuple[float, ...]
    """Wire bytes backward at each cut."""
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...]
    hosts: dict[str, int]
    broker_rate: float
    """The broker's throughput in bytes/s: the lower of its link (each way) and its own speed."""
    broker_s_per_byte: float
    """The broker's own time for a byte; 0 if its speed is unknown."""
    broker_latency: float
    broker_host: str | None
    micro_batches: int
    admit: int | None
    first_cut: int | None
    last_cut: int | None
    max_hops: int | None

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(self.names)

    def largest_block_parameters(self, start: int, end: int) -> int:
        """Return the parameter bytes of the largest of blocks [start, end)."""
        return max(self.parameters[block + 1] - self.parameters[block] for block in range(start, end))

    def largest_output(self, start: int, end: int) -> int:
        """Return the fp32 bytes of the largest tensor at cuts start … end."""
        return max(self.output[start : end + 1])

    @cached_property
    def batches(self) -> int:
        """Batch updates in a round, over all devices."""
        return sum(device.batches for device in self.devices)

    @cached_property
    def crossing(self) -> tuple[float, ...]:
        """Wire bytes of one batch at each cut, forward and backward together."""
        return tuple(map(sum, zip(self.activation, self.gradient, strict=True)))

    @property
    def waiting_share(self) -> float:
        """The share of the slowest machine's time that micro-batches add to a batch: (m - 1) / m."""
        return (self.micro_batches - 1) / self.micro_batches


def system_of(profile: Profile, fleet: Fleet) -> System:
    """Resolve `fleet` against `profile`. Raises UsageError for hardware without times, codecs and cuts out of range."""
    job, broker = fleet.job, fleet.broker
    if broker.link_mbps is None or broker.latency_ms is None:
        raise UsageError("broker: link_mbps or latency_ms missing")  # refused when read; here for the type checker
    link = broker.link_mbps * 1e6 / 8
    own = broker.max_mb_per_s * 1e6 if broker.max_mb_per_s is not None else inf
    kinds: dict[str, Hardware] = {}
    devices, nodes = [], []
    for device in fleet.expanded_devices():
        epoch = job.batches_per_epoch or ceil(device.samples / profile.batch_size)
        devices.append(
            Device(
                device.id,
                _hardware(kinds, profile, device.hardware, f"device {device.id!r}"),
                job.local_epochs * epoch,
                min(link, (device.up_mbps or inf) * 1e6 / 8),
                min(link, (device.down_mbps or inf) * 1e6 / 8),
                (device.latency_ms or 0.0) / 1e3,
                inf if device.memory_gib is None else device.memory_gib * GIB,
                device.host,
            )
        )
    for node in fleet.expanded_nodes():
        nodes.append(
            Node(
                node.id,
                _hardware(kinds, profile, node.hardware, f"node {node.id!r}"),
                node.memory_gib * GIB,
                min(link, (node.link_mbps or inf) * 1e6 / 8),
                node.cost_per_hour / 3600,
                node.host,
            )
        )
    output = (profile.input_bytes, *(block.output_bytes for block in profile.blocks))
    parameters = [block.parameter_bytes for block in profile.blocks]
    _check_cuts(len(profile.blocks), job.first_cut, job.last_cut)
    return System(
        names=tuple(block.name for block in profile.blocks),
        parameters=(0, *itertools.accumulate(parameters)),
        optimizer=(0, *itertools.accumulate(block_state_bytes(optimizer_section(job.optimizer), parameters))),
        stored=(0, *itertools.accumulate(block.stored_bytes for block in profile.blocks)),
        frozen=(0, *itertools.accumulate(block.frozen_bytes for block in profile.blocks)),
        output=output,
        activation=_on_the_wire(job.activations, output, (0, *(block.exact_bytes for block in profile.blocks))),
        gradient=_on_the_wire(job.gradients, (profile.input_bytes, *map(_gradient_bytes, profile.blocks))),
        devices=tuple(devices),
        nodes=tuple(nodes),
        hosts={host.name: host.cores for host in fleet.hosts},
        broker_rate=min(link, own),
        broker_s_per_byte=1 / own,
        broker_latency=broker.latency_ms / 1e3,
        broker_host=broker.host,
        micro_batches=min(job.micro_batches, profile.batch_size),
        admit=None if job.admit is None else min(job.admit, len(devices)),
        first_cut=job.first_cut,
        last_cut=job.last_cut,
        max_hops=job.max_hops,
    )


def _on_the_wire(codec: str, sizes: tuple[int, ...], exact: tuple[int, ...] = ()) -> tuple[float, ...]:
    """Bytes of tensors under `codec`, of which `exact` bytes are not coded. Raises UsageError for an unknown codec."""
    coded = parse(codec)
    exact = exact or (0,) * len(sizes)
    return tuple(
        float(coded.wire_bytes((ceil((size - plain) / FLOAT_BYTES),)) + plain)
        for size, plain in zip(sizes, exact, strict=True)
    )


def _gradient_bytes(block: BlockProfile) -> int:
    return block.output_bytes if block.gradient_bytes is None else block.gradient_bytes


def _hardware(kinds: dict[str, Hardware], profile: Profile, name: str, where: str) -> Hardware:
    if name not in profile.hardware:
        hint = nearest(name, profile.hardware) if profile.hardware else "the profile has no hardware at all"
        raise UsageError(f"{where}: the profile has no times for hardware {name!r}; {hint}; measure it and merge it")
    if name not in kinds:
        kinds[name] = _figures(profile.hardware[name], len(profile.blocks))
    return kinds[name]


def _figures(times: HardwareTimes, blocks: int) -> Hardware:
    steps: Sequence[float] = times.step_ms or [0.0] * blocks
    per_block = (sum(parts) / 1e3 for parts in zip(times.forward_ms, times.backward_ms, steps, strict=True))
    return Hardware(
        seconds=(0.0, *itertools.accumulate(per_block)),
        wire_s_per_byte=times.wire_cpu_s_per_gb / 1e9,
        copy_s_per_byte=0.0 if times.copy_gb_per_s is None else 1 / (times.copy_gb_per_s * 1e9),
        threads=times.threads,
        cores=inf if times.cores is None else times.cores,
    )


def _check_cuts(blocks: int, first: int | None, last: int | None) -> None:
    for key, cut in (("first_cut", first), ("last_cut", last)):
        if cut is not None and not 1 <= cut <= blocks - 1:
            raise UsageError(
                f"job: {key} = {cut}: the model has {blocks} blocks and the device keeps at least the first and the "
                f"last, so cuts lie within 1 and {blocks - 1}"
            )
    if first is not None and last is not None and first >= last:
        raise UsageError(f"job: first_cut = {first} and last_cut = {last} leave no block for a hop; first below last")
