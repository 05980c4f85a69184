"""Measures the blocks that a question names, in this process, and keeps the answers in a directory.

The clock is passed in. The model is built piece by piece, so measuring needs no more memory than the process may take.
Weights are random, and no generator is advanced but the profiler's own.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from mpsl import facts, strict_json
from mpsl.aggregation import aggregations
from mpsl.errors import UsageError
from mpsl.nn.block_model import BlockModel, block_model
from mpsl.nn.block_times import Chain, Clock, lasting, medians
from mpsl.nn.copy_rate import copied_bytes_per_s
from mpsl.nn.cost import BlockCost, block_costs
from mpsl.nn.edges import EdgeValue
from mpsl.nn.part import Part, allocated
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
        costs = block_costs(question.model, max(2, question.batch_size))
        if max(end for _, end in question.blocks) > len(costs):
            raise UsageError(f"model {question.model.name} has {len(costs)} blocks, asked were {question.blocks}")
        rows: list[list[float]] = [[], [], []]
        copied, copying_s = 0.0, 0.0
        for first, end in question.blocks:
            for piece in pieces(costs, first, end, self._most):
                chain = _chain(question, piece, self._clock)
                for _ in lasting(self._clock, WARM_S, WARM_BATCHES):
                    chain.whole()
                watched = [chain.by_block() for _ in lasting(self._clock, SECONDS, BATCHES)]
                for row, seconds in zip(rows, medians(watched), strict=True):
                    row += [round(each * 1e3, 6) for each in seconds]
                nbytes = 2 * sum(tensor.nbytes for tensor in chain.part.state_dict().values())
                if nbytes:
                    bare = block_model(question.model).part(*piece)
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


def _chain(question: Question, piece: tuple[int, int], clock: Clock) -> Chain:
    model = block_model(question.model)
    part = allocated(model.part(*piece))
    _fill(part, torch.Generator().manual_seed(0))
    return chain_of(model, part, max(2, question.batch_size), question.optimizer, clock, piece)


def chain_of(
    model: BlockModel,
    part: Part,
    batch: int,
    optimizer: str,
    clock: Clock,
    blocks: tuple[int, int] | None = None,
) -> Chain:
    """Return a part of `model` as a chain that trains on random values. `blocks`: which ones; None: all of them."""
    first, end = blocks or (0, len(model))
    chance = torch.Generator().manual_seed(0)
    labels = None
    if end == len(model):
        # A label for every row of the output, for instance for every token.
        *rows, classes = model.edge(end, batch)[0].shape
        labels = torch.randint(classes, (math.prod(rows),), generator=chance)
    values = tuple(_random(value, chance) for value in model.edge(first, batch))
    return Chain(part, optimizer_section(optimizer), values, labels, clock, input_gradient=first > 0)


def _random(value: EdgeValue, chance: torch.Generator) -> torch.Tensor:
    """A value to compute with: between 0 and 1, or 0 where it is no fraction."""
    if value.dtype.is_floating_point:
        return torch.rand(value.shape, generator=chance, dtype=value.dtype)
    return torch.zeros(value.shape, dtype=value.dtype)


def _fill(part: Part, chance: torch.Generator) -> None:
    """Fill the part with weights of the usual size. Uninitialised memory may hold numbers that are slow to compute."""
    for tensor in part.state_dict().values():
        if not tensor.is_floating_point():
            tensor.fill_(1)
        elif tensor.ndim > 1:
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
