"""What a rehearsal says: seconds of each round, how busy every node was, bytes under way, memory over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from mpsl.names import BROKER
from mpsl.sim.record import COMPUTE, DOWN, UP, WIRE_CPU, Record

MAX_POINTS = 200
"""How many points a curve over time is told in."""

Curve = tuple[tuple[float, int], ...]
"""(seconds since the first round was opened, bytes)."""


@dataclass(frozen=True)
class NodeFindings:
    """Shares of the rounds' time that a node computed, handled bytes, sent and received; bytes that it held."""

    compute: float
    wire_cpu: float
    up: float
    down: float
    peak_bytes: int
    memory: Curve


@dataclass(frozen=True)
class Findings:
    """All rounds of a rehearsal. `simulated_s` is the median of `rounds_s`."""

    rounds_s: tuple[float, ...]
    simulated_s: float
    nodes: dict[str, NodeFindings]
    broker: float
    """Share of the rounds' time that the broker itself worked, where its speed is known."""
    peak_in_flight_bytes: int
    mean_in_flight_bytes: float
    in_flight: Curve


def findings(record: Record, nodes: Sequence[str]) -> Findings:
    """What `record` says of these nodes."""
    rounds = tuple(each.seconds for each in record.rounds if each.seconds is not None)
    total = sum(rounds)
    end = record.rounds[-1].opened + rounds[-1]

    def share(process: str, lane: str) -> float:
        return record.busy_s.get((process, lane), 0.0) / total if total else 0.0

    flight = [(at, size) for at, size in record.in_flight if at <= end]
    held = {node: [(at, size) for at, size in record.memory.get(node, []) if at <= end] for node in nodes}
    return Findings(
        rounds_s=rounds,
        simulated_s=median(rounds),
        nodes={
            node: NodeFindings(
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
    """At most MAX_POINTS points of a curve of steps: of each stretch of time its highest, so that no peak is lost."""
    if len(points) <= MAX_POINTS or end <= 0:
        return tuple(points[:MAX_POINTS])
    highest: dict[int, tuple[float, int]] = {}
    for at, size in points:
        stretch = min(MAX_POINTS - 1, int(MAX_POINTS * at / end))
        if stretch not in highest or size > highest[stretch][1]:
            highest[stretch] = (at, size)
    return tuple(highest.values())


def _mean(points: Sequence[tuple[float, int]], end: float) -> float:
    """Of a curve of steps from 0 to `end`."""
    if not points or end <= 0:
        return 0.0
    ends = [at for at, _ in points[1:]] + [end]
    return sum(size * (until - at) for (at, size), until in zip(points, ends, strict=True)) / end
