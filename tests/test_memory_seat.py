"""How a seat is filled: what each memory strategy needs, which one is chosen, and what it costs."""

import pytest

from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.planning.seat_memory import (
    SLACK_BYTES,
    WINDOW_BYTES,
    SeatMemory,
    best_strategy,
    memory_strategies,
    part_sizes,
)

MODEL = ModelBuilt(
    block_costs=(1.0, 4.0, 2.0, 1.0),
    state_bytes=(10, 2000, 500, 10),
    output_bytes=(70, 90, 50, 10),
    stored_bytes=(100, 800, 600, 100),
    optimizer_bytes=(10, 1900, 400, 10),
    single_value_norms=(),
    input_shape=(1,),
    classes=2,
    parameters=1,
)
QUEUES = 2 * (70 + 50) + 2 * WINDOW_BYTES
SCRATCH = 4 * 90 + SLACK_BYTES


def test_one_micro_batch_needs_the_largest_gradient_alone() -> None:
    memory, disk, again = memory_strategies(part_sizes(MODEL, (1, 3)), 1)
    assert memory == SeatMemory(2 * 2500 + 2000 + SCRATCH, 2500 + 2300 + 1400 + QUEUES)
    assert disk == SeatMemory(2000 + SCRATCH, 2500 + 2300 + 1400 + QUEUES, on_disk=True)
    assert again == SeatMemory(2000 + SCRATCH + 1400, 2500 + 2300 + QUEUES, on_disk=True, recompute=True)


def test_several_micro_batches_keep_a_set_of_gradients_each() -> None:
    _, disk, again = memory_strategies(part_sizes(MODEL, (1, 3)), 4)
    assert disk == SeatMemory(SCRATCH, 2 * 2500 + 2300 + 1400 + QUEUES, on_disk=True)
    assert again.fixed == SCRATCH + 350


def test_copies_and_bytes_are_inverse() -> None:
    seat = SeatMemory(100, 30)
    assert [seat.copies(budget) for budget in (99, 129, 130, 189, 190)] == [0, 0, 1, 2, 3]
    assert all(seat.copies(seat.needed(n)) == n for n in range(5))


@pytest.mark.parametrize(
    ("budget", "expected"),
    [(69, None), (70, 2), (130, 2), (179, 2), (180, 1), (279, 1), (280, 0), (9999, 0)],
)
def test_the_strategy_with_the_most_throughput_is_taken(budget: int, expected: int | None) -> None:
    """Two devices cover the cycle; computing again costs a quarter, being alone half."""
    options = (
        SeatMemory(180, 50),
        SeatMemory(80, 50, on_disk=True),
        SeatMemory(60, 10, on_disk=True, recompute=True),
    )
    found = best_strategy(options, budget, wanted=2, cover=2.0)
    assert found == (None if expected is None else options[expected])


def test_throughput_is_what_covers_the_cycle_and_what_a_second_forward_costs() -> None:
    assert SeatMemory(0, 1).throughput(1, 1.5) == pytest.approx(2 / 3)
    assert SeatMemory(0, 1).throughput(3, 1.5) == 1
    assert SeatMemory(0, 1, recompute=True).throughput(3, 1.5) == pytest.approx(3 / 4)
