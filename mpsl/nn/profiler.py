"""Measures the blocks that a question names, in this process, and keeps the answers in a directory.

The clock is passed in. The model is built piece by piece, so measuring needs no more memory than the process may take.
Weights are random, and no generator is advanced but the profiler's own.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from mpsl import facts, strict_json
from mpsl.aggregation import aggregations
from mpsl.errors import UsageError
from mpsl.nn.block_times import Chain, Clock, lasting, medians
from mpsl.nn.copy_rate import copied_bytes_per_s
from mpsl.nn.cost import BlockCost, block_costs
from mpsl.nn.models import describe
from mpsl.nn.part import meta_part
from mpsl.profile_questions import BlockSeconds, Question, optimizer_section

WARM_S, WARM_BATCHES = 0.3, 2
SECONDS, BATCHES = 1.5, 3
"""The minimum time and number of batches for each piece."""
PIECE_BYTES = 1 << 30
"""Maximum memory of a piece of more than one block, weights included."""
COPIES = 6
"""Copies of a piece's weights in memory: weights, gradients, two moments, and two while copying is measured."""


class Profiler:
    """Answers questions for the machine `hardware` with `threads` threads. With `directory` None nothing is kept."""

    def __init__(
        self, clock: Clock, hardware: str, threads: int, directory: Path | None, memory_budget: int | None = None
    ) -> None:
        self._clock = clock
        self._machine = (hardware, threads)
        self._directory = directory
        self._most = min(PIECE_BYTES, memory_budget or PIECE_BYTES)

    def answer(self, question: Question) -> BlockSeconds:
        """Return the times, kept or measured. Raises UsageError for a model that cannot be built."""
        said = repr((question.digest, *self._machine)).encode()
        name = f"{hashlib.blake2b(said, digest_size=12).hexdigest()}.json"
        path = self._directory / name if self._directory else None
        kept = _read(path) if path else None
        if kept is not None and len(kept.forward_ms) == sum(end - first for first, end in question.blocks):
            return kept
        measured = self._measure(question)
        if path is not None:
            _write(path, measured)
        return measured

    def _measure(self, question: Question) -> BlockSeconds:
        costs = block_costs(question.model.name, question.model.args, max(2, question.batch_size))
        if max(end for _, end in question.blocks) > len(costs):
            raise UsageError(f"model {question.model.name} has {len(costs)} blocks, asked were {question.blocks}")
        rows: list[list[float]] = [[], [], []]
        copied, copying_s = 0.0, 0.0
        for first, end in question.blocks:
            for piece in pieces(costs, first, end, self._most):
                chain = _chain(question, piece, costs, self._clock)
                for _ in lasting(self._clock, WARM_S, WARM_BATCHES):
                    chain.whole()
                watched = [chain.by_block() for _ in lasting(self._clock, SECONDS, BATCHES)]
                for row, seconds in zip(rows, medians(watched), strict=True):
                    row += [round(each * 1e3, 6) for each in seconds]
                nbytes = 2 * sum(tensor.nbytes for tensor in chain.part.state_dict().values())
                if nbytes:
                    bare = meta_part(question.model, piece)
                    rule = aggregations.get("splitfed-v1")
                    copying_s += nbytes / copied_bytes_per_s(chain.part, bare, rule, self._clock)
                    copied += nbytes
        forward, backward, step = map(tuple, rows)
        return BlockSeconds(forward, backward, step, copied / copying_s / 1e9 if copying_s else 1.0)


def pieces(costs: Sequence[BlockCost], first: int, end: int, most: int) -> Iterator[tuple[int, int]]:
    """Divide blocks [first, end) into as few consecutive pieces of at most `most` bytes as possible.

    Each piece has at least one block.
    """
    start, taken = first, 0
    for number in range(first, end):
        cost = costs[number]
        need = COPIES * (cost.parameter_bytes + cost.buffer_bytes) + cost.stored_bytes + cost.output_bytes
        if number > start and taken + need > most:
            yield start, number
            start, taken = number, 0
        taken += need
    if start < end:
        yield start, end


def _chain(question: Question, piece: tuple[int, int], costs: Sequence[BlockCost], clock: Clock) -> Chain:
    first, end = piece
    described = describe(question.model.name, **question.model.args)
    shape = described.input_shape() if first == 0 else costs[first - 1].output_shape
    batch = max(2, question.batch_size)
    chance = torch.Generator().manual_seed(0)
    labels = torch.randint(described.num_classes, (batch,), generator=chance) if end == len(costs) else None
    part = meta_part(question.model, piece).to_empty(device="cpu")
    _fill(part, chance)
    data = torch.rand(batch, *shape, generator=chance)
    return Chain(part, optimizer_section(question.optimizer), data, labels, clock, input_gradient=first > 0)


def _fill(part: nn.Module, chance: torch.Generator) -> None:
    """Fill the part with weights of the usual size. Uninitialised memory may hold numbers that are slow to compute."""
    for tensor in part.state_dict().values():
        if tensor.ndim > 1:
            tensor.normal_(0, (tensor.numel() / tensor.shape[0]) ** -0.5, generator=chance)
        else:
            tensor.fill_(1)


def _read(path: Path) -> BlockSeconds | None:
    """Return the kept answer, or None where it is missing or damaged."""
    try:
        return facts.read(BlockSeconds, json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError, UsageError):
        return None


def _write(path: Path, times: BlockSeconds) -> None:
    """Keep an answer if possible. A process that may not write measures again next time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.new")
        beside.write_text(strict_json.dumps(facts.plain(times)), encoding="utf-8")
        beside.replace(path)
