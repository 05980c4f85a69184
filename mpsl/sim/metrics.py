"""Metrics of a rehearsal: seconds of each round, utilization of every node, bytes in flight, memory over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from mpsl.names import BROKER
from mpsl.sim.timeline import COMPUTE, DOWN, UP, WIRE_CPU, Timeline

MAX_POINTS = 200
"""The maximum number of points of a curve over time."""

Curve = tuple[tuple[float, int], ...]
"""(seconds since the first round was opened, bytes)."""


@dataclass(frozen=True)
class NodeMetrics:
    """A node's shares of the rounds' time for computing, handling bytes, sending and receiving; its held bytes."""

    compute: float
    wire_cpu: float
    up: float
    down: float
    peak_bytes: int
    memory: Curve


@dataclass(frozen=True)
class RehearsalMetrics:
    """All rounds of a rehearsal. `simulated_s` is the median of `rounds_s`."""

    rounds_s: tuple[float, ...]
    simulated_s: float
    nodes: dict[str, NodeMetrics]
    broker: float
    """Share of the rounds' time in which the broker itself worked, if its speed is known."""
    peak_in_flight_bytes: int
    mean_in_flight_bytes: float
    in_flight: Curve


def metrics_of(timeline: Timeline, nodes: Sequence[str]) -> RehearsalMetrics:
    """Return the metrics of these nodes and of the whole rehearsal."""
    rounds = tuple(each.seconds for each in timeline.rounds if each.seconds is not None)
    total = sum(rounds)
    end = timeline.rounds[-1].opened + rounds[-1]

    def share(process: str, lane: str) -> float:
        return timeline.busy_s.get((process, lane), 0.0) / total if total else 0.0

    flight = [(at, size) for at, size in timeline.in_flight if at <= end]
    held = {node: [(at, size) for at, size in timeline.memory.get(node, []) if at <= end] for node in nodes}
    return RehearsalMetrics(
        rounds_s=rounds,
        simulated_s=median(rounds),
        nodes={
            node: NodeMetrics(
                compute=share(node, COMPUTE),
                wire_cpu=share(node, WIRE_CPU),
                up=share(node, UP),
                down=share(node, DOWN),
                peak_bytes=max((size for _, size in held[node]), default=0),
                memory=thinned(held[node], end),
            )
            for node in nodes
        },
        broker=share(BROKER, WIRE_CPU),
        peak_in_flight_bytes=max((size for _, size in flight), default=0),
        mean_in_flight_bytes=_mean(flight, end),
        in_flight=thinned(flight, end),
    )


def thinned(points: Sequence[tuple[float, int]], end: float) -> Curve:
    """Return at most MAX_POINTS points of a step curve: the highest of each interval, so that no peak is lost."""
    if len(points) <= MAX_POINTS or end <= 0:
        return tuple(points[:MAX_POINTS])
    highest: dict[int, tuple[float, int]] = {}
    for at, size in points:
        interval = min(MAX_POINTS - 1, int(MAX_POINTS * at / end))
        if interval not in highest or size > highest[interval][1]:
            highest[interval] = (at, size)
    return tuple(highest.values())


def _mean(points: Sequence[tuple[float, int]], end: float) -> float:
    """Return the mean of a step curve from 0 to `end`."""
    if not points or end <= 0:
        return 0.0
    ends = [at for at, _ in points[1:]] + [end]
    return sum(size * (until - at) for (at, size), until in zip(points, ends, strict=True)) / end
