"""Measures the training time of every block in its place in the chain, and of the whole model.

It runs the same `TrainingCopy` that devices and hops train. The whole model is one part, so every block finds the
caches as its neighbours leave them. Reading the clock between blocks must not count as a block's time. The clock is
passed in.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mpsl.errors import MeasurementError
from mpsl.job import OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.edges import NumberedBlock, Values
from mpsl.nn.part import Part, Seeds, numbered_blocks, owners_of
from mpsl.nn.training_copy import TrainingCopy

Clock = Callable[[], float]
"""Returns seconds since an arbitrary start."""

TOLERANCE = 0.05
"""The largest accepted difference between the sum of the blocks and the whole model, relative to the whole."""


@dataclass(frozen=True)
class MeasurementEffort:
    """How long to measure, at least. Each further attempt takes twice the seconds and pairs of batches."""

    warm_s: float = 1.0
    warm_batches: int = 3
    seconds: float = 4.0
    pairs: int = 5
    attempts: int = 4


@dataclass(frozen=True)
class BlockTimes:
    """Median seconds of one batch: for each block, and for the whole model at once.

    The last block includes the loss. The first block computes no gradient of its input, as on a device.
    """

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    step: tuple[float, ...]
    whole: float

    @property
    def total(self) -> float:
        """The sum over the blocks."""
        return sum((*self.forward, *self.backward, *self.step))

    @property
    def disagreement(self) -> float:
        """The difference between the sum and the whole, relative to the whole."""
        return abs(self.total - self.whole) / self.whole


class Chain(TrainingCopy):
    """Consecutive blocks that train on one batch and can be timed block by block.

    `values` go into the first of them. With `labels`, they end with the model's last block and its loss. Without, they
    get constant gradients of their outputs.
    """

    def __init__(
        self,
        part: Part,
        optimizer: OptimizerSection,
        values: Values,
        labels: torch.Tensor | None,
        clock: Clock,
        input_gradient: bool = False,
    ) -> None:
        super().__init__(part, optimizer, seed=0, input_gradient=input_gradient)
        self._values = values
        self._labels = labels
        self._gradients: Values = ()
        self._clock = clock
        self._numbers = [number for number, _ in numbered_blocks(part, values)]
        self._owners = owners_of(part)
        self._laps: Laps | None = None
        self._tickets = (Ticket(1, 1, "profile", 1, 0, number, 0, 1) for number in itertools.count())

    def whole(self) -> float:
        """Return the seconds of one batch update as a whole."""
        started = self._clock()
        self._train()
        return self._clock() - started

    def by_block(self) -> "Laps":
        """Return the seconds of one batch update in every block."""
        laps = self._laps = Laps(self._numbers, self._clock)
        seeds, self._seeds = self._seeds, _WatchedSeeds(self._seeds.seed, laps)
        try:
            laps.resume()
            self._train()
            laps.lap(laps.backward)
        finally:
            self._seeds, self._laps = seeds, None
        return laps

    def _train(self) -> None:
        ticket = next(self._tickets)
        outputs = self.forward(ticket, tuple(value.detach() for value in self._values))
        self.backward(ticket, self._gradients_of(outputs))

    def _gradients_of(self, outputs: Values) -> Values:
        if self._labels is None:
            wanted = [output for output, value in zip(outputs, self._outputs, strict=True) if value.gradient]
            if [each.shape for each in self._gradients] != [each.shape for each in wanted]:
                self._gradients = tuple(torch.full_like(output, 1e-3) for output in wanted)
            return self._gradients
        (output,) = outputs
        output.requires_grad_()
        loss = functional.cross_entropy(output.flatten(0, -2), self._labels)
        if self._laps is not None:
            self._laps.lap(self._laps.forward)
        loss.backward()  # type: ignore[no-untyped-call]
        assert output.grad is not None
        return (output.grad,)

    def _step(self, parameter: nn.Parameter) -> None:
        laps = self._laps
        if laps is None:
            super()._step(parameter)
            return
        laps.lap(laps.backward)
        super()._step(parameter)
        laps.lap(laps.step, self._owners[parameter])


class Laps:
    """A stopwatch for each block and phase; `at` is the block that is being computed."""

    def __init__(self, blocks: list[int], clock: Clock) -> None:
        self.forward, self.backward, self.step = (dict.fromkeys(blocks, 0.0) for _ in range(3))
        self.at = blocks[0]
        self._clock = clock
        self._left = 0.0

    def lap(self, phase: dict[int, float], block: int | None = None) -> None:
        """Count the time since the last lap for this phase of a block (None: the block `at`)."""
        now = self._clock()
        phase[self.at if block is None else block] += now - self._left
        self.resume()

    def resume(self) -> None:
        """Restart the stopwatch: the time since the last lap counts for no block."""
        self._left = self._clock()


@dataclass(frozen=True)
class _WatchedSeeds(Seeds):
    """Takes the time after each block of a forward, and through a hook when backward reaches the block."""

    laps: Laps

    def block_forward(self, ticket: Ticket, block: NumberedBlock, values: Values) -> Values:
        laps, number = self.laps, block[0]
        laps.at = number
        outputs = super().block_forward(ticket, block, values)
        laps.lap(laps.forward)
        before = {id(value) for value in values}
        made = [output for output in outputs if output.requires_grad and id(output) not in before]
        reached: list[torch.Tensor] = []

        def backward_reached(gradient: torch.Tensor) -> None:
            """A gradient is complete; when all of them are, the block's own backward begins."""
            reached.append(gradient)
            laps.lap(laps.backward)
            if len(reached) == len(made):
                laps.at = number
                reached.clear()

        for output in made:
            output.register_hook(backward_reached)  # type: ignore[no-untyped-call]
        laps.resume()
        return outputs


def block_times(chain: Chain, clock: Clock, effort: MeasurementEffort) -> BlockTimes:
    """Measure pairs of batches, one by block and one as a whole, until the blocks add up to the whole.

    Returns medians. Raises MeasurementError with both figures if no attempt agrees within TOLERANCE.
    """
    for _ in lasting(clock, effort.warm_s, effort.warm_batches):
        chain.whole()
    for attempt in range(effort.attempts):
        found = _medians(chain, clock, effort.seconds * 2**attempt, effort.pairs * 2**attempt)
        if found.disagreement <= TOLERANCE:
            return found
    raise MeasurementError(
        f"the blocks add up to {found.total * 1e3:.3f} ms a batch, the whole model takes {found.whole * 1e3:.3f} ms: "
        f"{found.disagreement:.1%} apart after {effort.attempts} attempts, more than {TOLERANCE:.0%}. Something else "
        "uses these cores: end it and measure again"
    )


def _medians(chain: Chain, clock: Clock, seconds: float, pairs: int) -> BlockTimes:
    watched: list[Laps] = []
    wholes: list[float] = []
    for _ in lasting(clock, seconds, pairs):
        watched.append(chain.by_block())
        wholes.append(chain.whole())
    return BlockTimes(*medians(watched), statistics.median(wholes))


def medians(watched: Sequence[Laps]) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return the median seconds of forward, backward and step for each block."""
    rows = ([laps.forward for laps in watched], [laps.backward for laps in watched], [laps.step for laps in watched])
    forward, backward, step = (
        tuple(statistics.median(values) for values in zip(*(each.values() for each in row), strict=True))
        for row in rows
    )
    return forward, backward, step


def lasting(clock: Clock, seconds: float, least: int) -> Iterator[int]:
    """Yield numbers from 0: at least `least` of them, and for at least `seconds`."""
    started = clock()
    for number in itertools.count():
        if number >= least and clock() - started >= seconds:
            return
        yield number
