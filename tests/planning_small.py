"""One small system whose every figure can be worked out by hand, for the tests of the planner."""

from typing import Any

import pytest

from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.objective import Placement, Prediction, predict
from mpsl.planning.planner import assign_devices
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.seat_memory import SLACK_BYTES, WINDOW_BYTES
from mpsl.planning.system import System, system_of

WIDE = 8e9  # Mbit/s: 10¹⁵ bytes/s, so that what does not matter takes no time
MANY = {"count": 20}  # 100 batches a round, so that no device sets the pace
SEAT_FIXED = 3 * 4_000_000 + 4 * 1_000_000 + SLACK_BYTES
"""Bytes of a seat with one block: its part, the sum, the largest gradient, temporary tensors, slack."""
SEAT_COPY = 4_000_000 + 2_000_000 + 4 * 1_000_000 + 2 * WINDOW_BYTES
"""Bytes of each device admitted there: weights, stored activations, what comes and goes at both edges, windows."""
CHAIN = Placement((1, 2, 3), ((0,), (1,)))


def system(
    *,
    node: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    broker: dict[str, Any] | None = None,
    hosts: tuple[FleetHost, ...] = (),
    times: dict[str, Any] | None = None,
    **job: Any,
) -> System:
    """Four blocks of 1, 10, 30 and 1 ms, with 2 devices of 5 batches, 1 MB at each cut, and links that take no time."""
    milliseconds = (0.5, 5.0, 15.0, 0.5)
    hardware = HardwareTimes(milliseconds, milliseconds, **(times or {}))
    profile = Profile("m", 4, 1_000_000, (BlockProfile("b", 4_000_000, 1_000_000, 2_000_000),) * 4, {"box": hardware})
    devices: dict[str, Any] = {"count": 2, "up_mbps": WIDE, "down_mbps": WIDE, "latency_ms": 0.0}
    members: dict[str, Any] = {"memory_gib": 8.0, "cost_per_hour": 3600.0, "count": 2, "link_mbps": WIDE}
    return system_of(
        profile,
        Fleet(
            (FleetDevice("d", "box", 20, **(devices | (device or {}))),),
            (FleetNode("n", "box", **(members | (node or {}))),),
            FleetBroker(**({"link_mbps": WIDE, "latency_ms": 0.0} | (broker or {}))),
            hosts,
            FleetJob(**job),
        ),
    )


def judge(some: System, placement: Placement = CHAIN) -> Prediction:
    assignment = assign_devices(some, placement)
    prediction = predict(some, placement, assignment.loads, assignment.replicas)
    assert prediction is not None
    return prediction


def near(value: float) -> Any:
    return pytest.approx(value, rel=1e-5)
