"""Two pairs of device cuts are the same only where nothing that enters a plan's value differs."""

from dataclasses import replace
from typing import Any

import pytest

from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetJob, FleetNode
from mpsl.planning.node_kinds import kinds_of
from mpsl.planning.profile_file import BlockProfile, HardwareTimes, Profile
from mpsl.planning.service_demand import SystemArrays
from mpsl.planning.system import System, system_of
from mpsl.planning.vectorized_objective import EquivalentCutPairs, VectorizedObjective

BLOCKS = 8
PAIRS = [(1, 3), (4, 6), (1, 4)]


def changed(figures: tuple[Any, ...], at: int | None, **figure: int) -> tuple[Any, ...]:
    """Equal figures, but for the one at a block."""
    return tuple(
        (replace(each, **figure) if figure else 1.5 * each) if number == at else each
        for number, each in enumerate(figures)
    )


def system(node_at: int | None = None, device_at: int | None = None, **block: int) -> System:
    """Of equal blocks of 3.7 ms and 11.1 ms, whose sums are no round numbers; the device's last block is as long."""
    times = (3.7,) * BLOCKS
    blocks = (BlockProfile("b", 4_000_000, 1_000_000, 2_000_000),) * BLOCKS
    at = block.pop("at", None)
    profile = Profile(
        "m",
        4,
        1_000_000,
        changed(blocks, at, **block),
        {
            "box": HardwareTimes(changed(times, node_at), times, step_ms=times),
            "board": HardwareTimes(changed(times, device_at), times),
        },
    )
    device = FleetDevice("d", "board", 20, 2, 100.0, 100.0, 1.0)
    fleet = Fleet((device,), (FleetNode("n", "box", 8.0, 0.0, 2, 100.0),), FleetBroker(1000.0, 0.5), (), FleetJob())
    return system_of(profile, fleet)


def seen(some: System) -> list[bool]:
    columns = SystemArrays(some)
    pairs = EquivalentCutPairs(VectorizedObjective(some, columns, PAIRS), columns, kinds_of(some))
    return [pairs.seen_before(pair) for pair in range(len(PAIRS))]


def test_of_equal_blocks_only_their_number_counts() -> None:
    assert seen(system()) == [False, True, False]


@pytest.mark.parametrize(
    "difference",
    [
        {"node_at": 2}, {"device_at": 1}, {"at": 5, "parameter_bytes": 4_000_004}, {"at": 2, "stored_bytes": 2_000_001},
        {"at": 0, "output_bytes": 999_999}, {"at": 1, "output_bytes": 999_999}, {"at": 4, "output_bytes": 999_999},
    ],
    ids=str,
)  # fmt: skip
def test_one_figure_tells_two_pairs_apart(difference: dict[str, int]) -> None:
    assert seen(system(**difference)) == [False, False, False]


def test_a_figure_that_both_have_or_neither_tells_nothing() -> None:
    assert seen(system(node_at=7))[1]
    assert seen(system(device_at=0))[1]
    assert seen(system(at=7, output_bytes=1_000_004))[1]
