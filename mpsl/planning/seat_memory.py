"""The bytes that a seat and a device need, beside the interpreter and torch. Only this file computes them.

The node that keeps a budget and the planner that promises admissions both use these figures. They are an upper bound of
the process's real memory: tests and `mpsl bench memory` compare the two. Nothing is measured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

GIB = 2**30

Bytes = Any
"""A number of bytes, or an array with one entry for each part in question."""

SLACK_BYTES = 48 * 2**20
"""An allowance for small things: pages that the allocator keeps, threads, messages of a few KB, code."""

WINDOW_BYTES = 8 * 2**20
"""The bytes of a link in flight that are not yet, or no longer, a tensor: `Limits.window`."""

SCRATCH_TENSORS = 4
"""The number of temporary tensors of the largest activation's size in a backward, including those of operators."""

RECOMPUTATION_FACTOR = 4 / 3
"""The price of running a batch's forward twice; a backward takes twice as long as a forward."""


class ModelSizes(Protocol):
    """Bytes of a model, one entry a block, at the job's batch size."""

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """Parameters that train, and buffers."""

    @property
    def optimizer_bytes(self) -> tuple[int, ...]:
        """The optimizer's state for one device."""

    @property
    def stored_bytes(self) -> tuple[int, ...]:
        """What autograd keeps for backward."""

    @property
    def output_bytes(self) -> tuple[int, ...]:
        """The output."""

    @property
    def frozen_bytes(self) -> tuple[int, ...]:
        """Parameters that do not train; empty where there are none."""


@dataclass(frozen=True)
class PartSizes:
    """Bytes of one part, or of many parts as arrays, for a whole batch."""

    state: Bytes
    largest_block_state: Bytes
    optimizer: Bytes
    stored: Bytes
    input: Bytes
    output: Bytes
    largest_activation: Bytes
    """The largest of the input and the outputs of all blocks."""
    frozen: Bytes = 0
    """Parameters that do not train. They stay in memory once, whatever the number of devices."""


def part_sizes(model: ModelSizes, blocks: tuple[int, int]) -> PartSizes:
    """The sizes of the part of `blocks` [a, b), with a > 0: it belongs to a seat."""
    part = slice(*blocks)
    edge = model.output_bytes[blocks[0] - 1]
    return PartSizes(
        state=sum(model.state_bytes[part]),
        largest_block_state=max(model.state_bytes[part]),
        optimizer=sum(model.optimizer_bytes[part]),
        stored=sum(model.stored_bytes[part]),
        input=edge,
        output=model.output_bytes[blocks[1] - 1],
        largest_activation=max(edge, *model.output_bytes[part]),
        frozen=sum(model.frozen_bytes[part]),
    )


@dataclass(frozen=True)
class SeatMemory:
    """The needs of a seat under one memory strategy: `fixed` bytes, and `each` for every admitted device.

    `on_disk`: the committed part and the sum are in a file, read and written once for each device and round.
    `recompute`: activations are not kept; backward recomputes them.
    """

    fixed: Bytes
    each: Bytes
    on_disk: bool = False
    recompute: bool = False

    def copies(self, budget: float) -> int:
        """Return how many devices can be admitted within `budget` bytes."""
        return int(max(0, (budget - self.fixed) // self.each))

    def needed(self, copies: int) -> int:
        """Return the budget that `copies` devices need."""
        return int(self.fixed + copies * self.each)

    def throughput(self, copies: int, cover: float) -> float:
        """Return the share of the full throughput with `copies` admitted devices, if `cover` keep the seat busy."""
        return min(1.0, copies / cover) / (RECOMPUTATION_FACTOR if self.recompute else 1.0)


def in_memory(part: PartSizes, micro_batches: int) -> SeatMemory:
    """Return the strategy with everything in memory, which costs no time. The planner promises no other."""
    fixed, each = _working_bytes(part, micro_batches)
    return SeatMemory(fixed + 2 * part.state, each + part.stored)


def memory_strategies(part: PartSizes, micro_batches: int) -> tuple[SeatMemory, ...]:
    """Return the strategies for a seat, the fastest first: in memory, on disk, on disk and recomputed."""
    fixed, each = _working_bytes(part, micro_batches)
    recomputed = -(-part.stored // micro_batches)
    return (
        in_memory(part, micro_batches),
        SeatMemory(fixed, each + part.stored, on_disk=True),
        SeatMemory(fixed + recomputed, each, on_disk=True, recompute=True),
    )


def _working_bytes(part: PartSizes, micro_batches: int) -> tuple[Bytes, Bytes]:
    """Return the needs of every strategy: fixed bytes, and bytes for each admitted device."""
    fixed = SCRATCH_TENSORS * part.largest_activation + SLACK_BYTES + part.frozen
    each = part.state
    # A parameter is stepped as soon as its gradient is complete, so the gradients of a last micro-batch never exist
    # all at once. Those of earlier micro-batches do, and every admitted device may be between two of them.
    if micro_batches > 1:
        each = each + part.state
    else:
        fixed = fixed + part.largest_block_state
    # The input waits, is kept, and returns as a gradient; the output is sent, and its gradient arrives.
    return fixed, each + part.optimizer + 2 * (part.input + part.output) + 2 * WINDOW_BYTES


def best_strategy(options: Sequence[SeatMemory], budget: float, wanted: int, cover: float) -> SeatMemory | None:
    """Return the strategy with the highest throughput for up to `wanted` devices, the first among equals.

    None if no strategy fits a single device into `budget`.
    """
    fitting = [option for option in options if option.copies(budget)]
    return max(fitting, key=lambda option: option.throughput(min(option.copies(budget), wanted), cover), default=None)


def device_bytes(parameters: Bytes, stored: Bytes, inputs: Bytes, optimizer: Bytes, frozen: Bytes = 0) -> Bytes:
    """Return the bytes of a device with its first and last part: one copy, its gradients and state, and activations.

    `parameters` train, `frozen` do not. `inputs` counts the batch and, with hops, the returning activation.
    """
    return 2 * parameters + optimizer + stored + inputs + frozen
