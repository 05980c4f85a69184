"""How many bytes a seat needs beside the interpreter and torch, and how it makes do where its budget is short.

An upper bound of what the node's process really takes: tests and `mpsl bench memory` hold the two against each other.
Three ways to fill a seat, in the order of their price: all in memory; committed part and sum in a file, read and
written once a device and round; and, besides, activations computed again, one more forward a batch.
"""

from dataclasses import dataclass

from mpsl.job import RunSection
from mpsl.machines.jobs import ModelBuilt

SLACK_BYTES = 48 * 2**20
"""Whatever is too small to be counted: pages that the allocator keeps, threads, messages of a few KB, code."""

WINDOW_BYTES = 8 * 2**20
"""What a link may have in flight as bytes that are no tensor yet, or no more: `Limits.window`."""

SCRATCH_TENSORS = 4
"""Temporary tensors of the largest activation's size that a backward has at once, its operators' own among them."""

RECOMPUTING = 4 / 3
"""What a batch costs when its forward runs twice; a backward takes twice a forward's time."""


@dataclass(frozen=True)
class SeatMemory:
    """Bytes of one way to fill a seat: whoever is admitted, and for each admitted device."""

    fixed: int
    each: int
    on_disk: bool = False
    recompute: bool = False

    def copies(self, budget: int) -> int:
        """How many devices can be admitted within `budget` bytes."""
        return max(0, (budget - self.fixed) // self.each)

    def needed(self, copies: int) -> int:
        """The budget that `copies` devices need."""
        return self.fixed + copies * self.each

    def throughput(self, copies: int, cover: float) -> float:
        """Share of the full throughput with `copies` devices in, where `cover` would keep the seat busy."""
        return min(1.0, copies / cover) / (RECOMPUTING if self.recompute else 1.0)


def ways(model: ModelBuilt, blocks: tuple[int, int], run: RunSection) -> tuple[SeatMemory, ...]:
    """The ways to fill the seat of `blocks` [a, b), the cheapest in time first."""
    part = slice(*blocks)
    state, optimizer, stored = (sum(of[part]) for of in (model.state_bytes, model.optimizer_bytes, model.stored_bytes))
    edges = (model.output_bytes[blocks[0] - 1], model.output_bytes[blocks[1] - 1])
    scratch = SCRATCH_TENSORS * max(edges[0], *model.output_bytes[part]) + SLACK_BYTES
    # A parameter is stepped as soon as its gradient is whole, so the gradients of a last micro-batch are never all
    # there; those of the ones before are, and every admitted device may be between two of them.
    if run.micro_batches > 1:
        each = 2 * state
        fixed = scratch
    else:
        each = state
        fixed = scratch + max(model.state_bytes[part])
    # Its input waits, is kept, and comes back as a gradient; its output goes, and a gradient comes.
    each += optimizer + 2 * sum(edges) + 2 * WINDOW_BYTES
    once = -(-stored // run.micro_batches)
    return (
        SeatMemory(fixed + 2 * state, each + stored),
        SeatMemory(fixed, each + stored, on_disk=True),
        SeatMemory(fixed + once, each, on_disk=True, recompute=True),
    )


def best_way(options: tuple[SeatMemory, ...], budget: int, wanted: int, cover: float) -> SeatMemory | None:
    """The way with the most throughput for up to `wanted` devices, the first among equals; None where none fits one."""
    fitting = [way for way in options if way.copies(budget)]
    return max(fitting, key=lambda way: way.throughput(min(way.copies(budget), wanted), cover), default=None)
