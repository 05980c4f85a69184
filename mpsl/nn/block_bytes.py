"""The bytes of a model's blocks when a job trains it.

The orchestrator plans with these figures and a node keeps its budget by them. Both compute them here, so a node never
refuses a seat that fits by the plan. Nothing is allocated: the sizes come from the meta device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mpsl.job import Job, OptimizerSection
from mpsl.nn.cost import BlockCost, block_costs
from mpsl.nn.optimizers import block_state_bytes

MIN_BATCH = 2
"""Samples. With one sample, a BatchNorm may see a single value per channel, and the model has no cost."""


@dataclass(frozen=True)
class BlockBytes:
    """Bytes of a model, one entry a block, at the job's batch size: `mpsl.planning.seat_memory.ModelSizes`."""

    state_bytes: tuple[int, ...]
    optimizer_bytes: tuple[int, ...]
    stored_bytes: tuple[int, ...]
    output_bytes: tuple[int, ...]
    frozen_bytes: tuple[int, ...] = ()


def costs_in(job: Job) -> tuple[BlockCost, ...]:
    """Return the cost of each block of the job's model for its batch size. Raises UsageError as `block_costs` does."""
    return block_costs(job.model, max(MIN_BATCH, job.run.batch_size))


def block_bytes(costs: Sequence[BlockCost], optimizer: OptimizerSection) -> BlockBytes:
    """Return the bytes of blocks with these costs. Raises UsageError for an unknown optimizer."""
    return BlockBytes(
        state_bytes=tuple(cost.parameter_bytes + cost.buffer_bytes for cost in costs),
        optimizer_bytes=block_state_bytes(optimizer, [cost.parameter_bytes for cost in costs]),
        stored_bytes=tuple(cost.stored_bytes for cost in costs),
        output_bytes=tuple(cost.output_bytes for cost in costs),
        frozen_bytes=tuple(cost.frozen_bytes for cost in costs),
    )
