"""A rehearsal as a file for Perfetto and chrome://tracing: the trace event format, one process per participant."""

from collections.abc import Sequence
from typing import Any

from mpsl.sim.timeline import COMPUTE, DOWN, UP, WIRE_CPU, Timeline

LANES = (COMPUTE, WIRE_CPU, UP, DOWN)
MICROSECONDS = 1e6


def chrome_trace(timeline: Timeline, processes: Sequence[str]) -> dict[str, Any]:
    """Return all spans (if the timeline kept them), bytes in flight and memory as counters, and rounds as a track.

    `processes`: all participants in display order.
    """
    numbers = {process: number for number, process in enumerate(processes, start=2)}
    events: list[dict[str, Any]] = [_named("process_name", 1, 0, "run")]
    events += [_named("thread_name", 1, 1, "rounds")]
    for process, number in numbers.items():
        events.append(_named("process_name", number, 0, process))
        events += [_named("thread_name", number, lane, name) for lane, name in enumerate(LANES, start=1)]
    for number, each in enumerate(timeline.rounds, start=1):
        events.append(_complete(1, 1, f"round {number}", "round", each.opened, each.opened + (each.seconds or 0.0)))
    for span in timeline.spans:
        name = f"{span.what} {span.device}".strip()
        lane = LANES.index(span.lane) + 1
        events.append(_complete(numbers[span.process], lane, name, span.what, span.start, span.end))
    for at, size in timeline.in_flight:
        events.append(_counter(1, "bytes in flight", at, size))
    for node, held in timeline.memory.items():
        events += [_counter(numbers[node], "memory", at, size) for at, size in held]
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _named(kind: str, process: int, lane: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": lane, "ts": 0, "args": {"name": name}}


def _complete(process: int, lane: int, name: str, category: str, start: float, end: float) -> dict[str, Any]:
    times = {"ts": start * MICROSECONDS, "dur": (end - start) * MICROSECONDS}
    return {"ph": "X", "name": name, "cat": category, "pid": process, "tid": lane, **times}


def _counter(process: int, name: str, at: float, size: int) -> dict[str, Any]:
    return {"ph": "C", "name": name, "pid": process, "tid": 0, "ts": at * MICROSECONDS, "args": {"bytes": size}}
