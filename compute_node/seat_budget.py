"""What a seat may take of the node's memory budget, and the refusal of a seat that does not fit beside the others.

The budget is given out first come, first served. A seat is promised what it needs when as many devices are admitted as
its plan ever allows, so raising the number of admitted devices during one run takes nothing from another. The bytes are
those by which the orchestrator filled the seat (`mpsl/planning/seat_memory.py`);
they must not be computed in another way.
"""

from collections.abc import Mapping

from mpsl.errors import UsageError
from mpsl.machines.session_id import SessionId
from mpsl.nn.block_bytes import block_bytes, costs_in
from mpsl.plan import Plan, Seat
from mpsl.planning.seat_memory import memory_strategies, part_sizes


def promise(plan: Plan, seat: Seat, budget: int, promised: Mapping[SessionId, int]) -> int:
    """The bytes that the seat needs at most, on top of what other sessions were `promised` of `budget`.

    Raises UsageError with all numbers where they do not fit.
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
            "fleet.admit, make batch_size smaller, or use more hops"
        )
    return needed


def most_copies(plan: Plan, seat: Seat) -> int:
    """How many devices sit at the seat at once when the plan's G has been raised as far as it may be.

    A replica without devices counts as if it had one, as in the orchestrator's seating.
    """
    return max(1, plan.places(seat.address, max(plan.admit, plan.admit_most)))


def seat_bytes(plan: Plan, seat: Seat, copies: int) -> int:
    """Bytes of the seat with so many copies, under the memory strategy that the plan chose for it."""
    part = part_sizes(block_bytes(costs_in(plan.job), plan.job.optimizer), seat.blocks)
    strategies = memory_strategies(part, plan.job.run.micro_batches)
    chosen = (seat.on_disk, seat.recompute)
    # A plan never recomputes in memory; if it does, the sizes in memory are an upper bound.
    strategy = next((each for each in strategies if (each.on_disk, each.recompute) == chosen), strategies[0])
    return strategy.needed(copies)
