"""FLEET.toml: the devices, nodes, hosts, links and the job to plan for, as a person writes them.

Units: GiB, mbps = 10⁶ bit/s (full duplex), MB/s = 10⁶ bytes/s, ms. Figures are converted in `system.py`, nowhere else.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from mpsl.codecs import parse
from mpsl.errors import UsageError
from mpsl.names import BROKER, check_id, nearest
from mpsl.profile_questions import optimizer_section


@dataclass(frozen=True)
class FleetDevice:
    """One device, or with `count` > 1 that many alike: id-1 … id-count. `latency_ms` is one way to the broker."""

    id: str
    hardware: str
    samples: int
    count: int = 1
    up_mbps: float | None = None
    down_mbps: float | None = None
    latency_ms: float | None = None
    memory_gib: float | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        where = f"device {self.id!r}"
        _positive(where, count=self.count, samples=self.samples)
        _link(where, up_mbps=self.up_mbps, down_mbps=self.down_mbps)
        _latency(where, self.latency_ms)
        if self.memory_gib is not None:
            _positive(where, memory_gib=self.memory_gib)


@dataclass(frozen=True)
class FleetNode:
    """One compute node, or with `count` > 1 that many alike."""

    id: str
    hardware: str
    memory_gib: float
    cost_per_hour: float
    count: int = 1
    link_mbps: float | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        where = f"node {self.id!r}"
        _positive(where, count=self.count, memory_gib=self.memory_gib)
        _link(where, link_mbps=self.link_mbps)
        if not 0 <= self.cost_per_hour < float("inf"):
            raise ValueError(f"{where}: cost_per_hour is {self.cost_per_hour}; it must be at least 0")


@dataclass(frozen=True)
class FleetHost:
    """A machine whose cores are shared by the processes that name it."""

    name: str
    cores: int

    def __post_init__(self) -> None:
        _positive(f"host {self.name!r}", cores=self.cores)


@dataclass(frozen=True)
class FleetBroker:
    """The broker. `latency_ms` is one way between it and a node; `max_mb_per_s` is its total throughput."""

    link_mbps: float | None = None
    latency_ms: float | None = None
    max_mb_per_s: float | None = None
    host: str | None = None

    def __post_init__(self) -> None:
        _link("broker", link_mbps=self.link_mbps)
        _latency("broker", self.latency_ms)
        if self.max_mb_per_s is not None:
            _positive("broker", max_mb_per_s=self.max_mb_per_s)


MAX_MEMBERS = 100_000
"""The maximum number of devices, and of nodes."""
SLOWEST_MBPS = 1e-6
"""One bit per second, the slowest allowed link."""


@dataclass(frozen=True)
class FleetJob:
    """The work of a round. `first_cut` and `last_cut` fix the device's parts (cuts[0] and cuts[-1])."""

    local_epochs: int = 1
    batches_per_epoch: int | None = None
    first_cut: int | None = None
    last_cut: int | None = None
    max_hops: int | None = None
    micro_batches: int = 1
    optimizer: str = "sgd"
    activations: str = "fp32"
    gradients: str = "fp32"
    admit: int | None = None

    def __post_init__(self) -> None:
        _positive("job", local_epochs=self.local_epochs, micro_batches=self.micro_batches)
        for key in ("batches_per_epoch", "first_cut", "last_cut", "max_hops", "admit"):
            if getattr(self, key) is not None:
                _positive("job", **{key: getattr(self, key)})
        for key in ("activations", "gradients"):
            try:
                parse(getattr(self, key))
            except UsageError as error:
                raise ValueError(f"job: {key}: {error}") from None
        try:
            optimizer_section(self.optimizer)
        except UsageError as error:
            raise ValueError(f"job: {error}") from None


@dataclass(frozen=True)
class Fleet:
    """Everything that takes part, as written. `expanded` gives one entry a device and a node."""

    devices: tuple[FleetDevice, ...]
    nodes: tuple[FleetNode, ...]
    broker: FleetBroker
    hosts: tuple[FleetHost, ...] = ()
    job: FleetJob = field(default_factory=FleetJob)

    def __post_init__(self) -> None:
        if not self.devices:
            raise ValueError("devices is empty; a round needs at least one [[devices]]")
        for where, listed in (("devices", self.devices), ("nodes", self.nodes)):
            if (count := sum(each.count for each in listed)) > MAX_MEMBERS:
                raise ValueError(f"{where}: {count} of them; a fleet has at most {MAX_MEMBERS}")
        names = [host.name for host in self.hosts]
        if len(set(names)) < len(names):
            raise ValueError("hosts: a name occurs twice; names of hosts must be unique")
        for where, host in [
            *((f"device {device.id!r}", device.host) for device in self.devices),
            *((f"node {node.id!r}", node.host) for node in self.nodes),
            ("broker", self.broker.host),
        ]:
            if host is not None and host not in names:
                hint = nearest(host, names) if names else "the fleet has no [[hosts]]"
                raise ValueError(f"{where}: unknown host {host!r}; {hint}")
        seen: set[str] = set()
        members: tuple[FleetDevice | FleetNode, ...] = (*self.expanded_devices(), *self.expanded_nodes())
        for member in members:
            try:
                check_id(member.id, "id")
            except UsageError as error:
                raise ValueError(str(error)) from None
            if member.id == BROKER:
                raise ValueError(f"id {BROKER!r} is the broker's own name in plans and pictures; choose another")
            if member.id in seen:
                raise ValueError(f"id {member.id!r} occurs twice; ids must be unique over devices and nodes")
            seen.add(member.id)

    def expanded_devices(self) -> tuple[FleetDevice, ...]:
        """One entry per device, in the order of the file; every `count` is 1."""
        return _expand(self.devices)

    def expanded_nodes(self) -> tuple[FleetNode, ...]:
        """One entry per node, in the order of the file; every `count` is 1."""
        return _expand(self.nodes)


Member = TypeVar("Member", FleetDevice, FleetNode)


def _expand(members: Sequence[Member]) -> tuple[Member, ...]:
    return tuple(
        member if member.count == 1 else dataclasses.replace(member, id=f"{member.id}-{number}", count=1)
        for member in members
        for number in range(1, member.count + 1)
    )


def _positive(where: str, **figures: float) -> None:
    for key, value in figures.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{where}: {key} is {value}; it must be more than 0")


def _link(where: str, **figures: float | None) -> None:
    missing: Iterable[str] = [key for key, value in figures.items() if value is None]
    if missing:
        raise ValueError(f"{where}: {' and '.join(missing)} missing; a plan needs the speed of every link, in Mbit/s")
    for key, value in figures.items():
        if value is not None and not SLOWEST_MBPS <= value < float("inf"):
            raise ValueError(f"{where}: {key} is {value}; it must be at least {SLOWEST_MBPS:g}")


def _latency(where: str, latency_ms: float | None) -> None:
    if latency_ms is None:
        raise ValueError(f"{where}: latency_ms missing; a plan needs the latency of every link, one way, in ms")
    if not 0 <= latency_ms < float("inf"):
        raise ValueError(f"{where}: latency_ms is {latency_ms}; it must be at least 0")
