"""Shares the node's memory budget among seats, and refuses a seat that does not fit beside the others.

The budget is given out first come, first served. A seat is promised the memory that it needs with as many admitted
devices as its plan ever allows. So a higher number of admitted devices in one run takes nothing from another. The
bytes are those that the orchestrator planned the seat with (`mpsl/planning/seat_memory.py`). They must not be computed
in another way.
"""

from collections.abc import Mapping

from mpsl.errors import UsageError
from mpsl.machines.session_id import SessionId
from mpsl.nn.block_bytes import block_bytes, costs_in
from mpsl.plan import Plan, Seat
from mpsl.planning.seat_memory import memory_strategies, part_sizes


def promise(plan: Plan, seat: Seat, budget: int, promised: Mapping[SessionId, int]) -> int:
    """Return the most bytes that the seat needs, beside those of `budget` that are `promised` to other sessions.

    Raises UsageError with all numbers if they do not fit.
    """
    copies = most_copies(plan, seat)
    needed = seat_bytes(plan, seat, copies)
    free = budget - sum(promised.values())
    if needed > free:
        others = ", ".join(f"{size:,} to {session}" for session, size in promised.items()) or "nothing"
        raise UsageError(
            f"seat {seat.address} of {plan.run} on {seat.node} needs {needed:,} bytes for up to {copies} admitted "
            f"device{'s' * (copies != 1)}; the node's --memory-budget is {budget:,}, of which {max(0, free):,} are "
            f"free (promised: {others}); wait for the other runs to end, raise --memory-budget, set a lower "
            "fleet.admit, reduce batch_size, or use more hops"
        )
    return needed


def most_copies(plan: Plan, seat: Seat) -> int:
    """Return the number of copies at the seat once the plan's G is raised to its maximum.

    A replica without devices counts as if it had one, as in the orchestrator's seating.
    """
    return max(1, plan.places(seat.address, max(plan.admit, plan.admit_most)))


def seat_bytes(plan: Plan, seat: Seat, copies: int) -> int:
    """Return the bytes of the seat with this number of copies, under the memory strategy of the plan."""
    part = part_sizes(block_bytes(costs_in(plan.job), plan.job.optimizer), seat.blocks)
    strategies = memory_strategies(part, plan.job.run.micro_batches)
    chosen = (seat.on_disk, seat.recompute)
    # A plan only recomputes with files. If it ever does without, the sizes in memory are an upper bound.
    strategy = next((each for each in strategies if (each.on_disk, each.recompute) == chosen), strategies[0])
    return strategy.needed(copies)
