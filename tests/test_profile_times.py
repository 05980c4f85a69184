"""Times of blocks: each where it belongs, the sum beside the whole, again where they disagree. No real clock."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from mpsl.aggregation import aggregations
from mpsl.errors import MeasurementError
from mpsl.job import ModelSection, OptimizerSection
from mpsl.nn.block_model import block_model
from mpsl.nn.block_times import BlockTimes, Chain, MeasurementEffort, block_times
from mpsl.nn.copy_rate import copied_bytes_per_s
from mpsl.nn.models import build, input_shape

EFFORT = MeasurementEffort(warm_s=0.1, seconds=1.0)
SGD = OptimizerSection("sgd", 0.01, momentum=0.9)


@dataclass
class Clock:
    """Stands still but for what a block takes."""

    now: float = 0.0
    readings: int = 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now


class Taking(torch.autograd.Function):
    """Takes its time backward."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, clock: Clock, seconds: float) -> torch.Tensor:
        ctx.clock, ctx.seconds = clock, seconds
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.clock.now += ctx.seconds
        return gradients[0], None, None


class Block(nn.Module):
    """Takes so many seconds forward and backward; without `weighs` it has nothing to learn."""

    def __init__(self, clock: Clock, forward: float, backward: float, weighs: bool = True) -> None:
        super().__init__()
        self.clock, self.seconds = clock, (forward, backward)
        self.weight = nn.Parameter(torch.ones(3)) if weighs else torch.ones(3)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds[0]
        return Taking.apply(value * self.weight, self.clock, self.seconds[1])  # type: ignore[no-any-return,no-untyped-call]


class Stepping:
    """An optimizer that takes its time for each parameter."""

    def __init__(self, clock: Clock, seconds: dict[int, float]) -> None:
        self.clock, self.seconds = clock, seconds

    def step(self, parameter: nn.Parameter) -> None:
        self.clock.now += self.seconds[id(parameter)]

    def held_bytes(self) -> int:
        return 0


def chain_of(clock: Clock, *blocks: Block, step: tuple[float, ...]) -> Chain:
    chain = Chain(nn.Sequential(*blocks), SGD, (torch.rand(4, 3),), torch.tensor([0, 1, 2, 0]), clock)
    chain._optimizer = Stepping(clock, {id(block.weight): s for block, s in zip(blocks, step, strict=True)})
    return chain


def test_every_second_belongs_to_the_block_and_phase_that_took_it() -> None:
    clock = Clock()
    blocks = (Block(clock, 0.1, 0.2), Block(clock, 0.3, 0.4), Block(clock, 0.5, 0.6))
    found = block_times(chain_of(clock, *blocks, step=(0.01, 0.02, 0.03)), clock, EFFORT)
    assert found.forward == pytest.approx((0.1, 0.3, 0.5))
    assert found.backward == pytest.approx((0.2, 0.4, 0.6))
    assert found.step == pytest.approx((0.01, 0.02, 0.03))
    assert found.whole == pytest.approx(found.total) == pytest.approx(2.16)


def test_blocks_before_the_first_with_weights_take_nothing_backward() -> None:
    clock = Clock()
    blocks = (Block(clock, 0.1, 9.0, weighs=False), Block(clock, 0.3, 0.4), Block(clock, 0.5, 0.6, weighs=False))
    found = block_times(chain_of(clock, *blocks, step=(0, 0.02, 0)), clock, EFFORT)
    assert found.forward == pytest.approx((0.1, 0.3, 0.5))
    assert found.backward == pytest.approx((0, 0.4, 0.6))
    assert found.step == pytest.approx((0, 0.02, 0))


def test_one_slow_batch_does_not_move_the_medians() -> None:
    clock = Clock()
    slow = Block(clock, 0.1, 0.1)
    chain = chain_of(clock, slow, Block(clock, 0.1, 0.1), step=(0, 0))
    passes = iter(range(10**6))
    slow.register_forward_pre_hook(lambda *_: setattr(clock, "now", clock.now + (5.0 if next(passes) == 7 else 0)))
    assert block_times(chain, clock, EFFORT).total == pytest.approx(0.4)


class Uneven(Block):
    """Takes longer in every second batch, the unwatched ones, as long as `again` says."""

    passes = 0
    again = 10**6

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        if self.passes % 2 == 1 and self.passes < self.again:
            self.clock.now += 0.2
        return super().forward(value)


def test_what_does_not_add_up_is_refused_with_both_figures_after_so_many_attempts() -> None:
    clock = Clock()
    uneven = Uneven(clock, 1.0, 0.5)
    effort = MeasurementEffort(warm_batches=3, pairs=5, seconds=1.0, attempts=3)
    with pytest.raises(
        MeasurementError, match=r"add up to 2000.000 ms .* takes 2200.000 ms: 9.1% apart after 3 attempts"
    ):
        block_times(chain_of(clock, uneven, Block(clock, 0.5, 0.0), step=(0, 0)), clock, effort)
    assert uneven.passes == 3 + 2 * (5 + 10 + 20)


def test_what_does_not_add_up_is_measured_again() -> None:
    clock = Clock()
    uneven = Uneven(clock, 1.0, 0.5)
    uneven.again = 20
    found = block_times(chain_of(clock, uneven, Block(clock, 0.5, 0.0), step=(0, 0)), clock, MeasurementEffort(pairs=5))
    assert found.disagreement == pytest.approx(0)
    assert uneven.passes == 3 + 2 * (5 + 10)


def test_within_five_per_cent_is_good_and_beyond_is_not() -> None:
    assert BlockTimes((1.0, 0.6), (0.2, 0.1), (0.0, 0.0), 2.0).disagreement == pytest.approx(0.05)
    assert BlockTimes((1.0, 0.6), (0.3, 0.3), (0.0, 0.0), 2.0).disagreement == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["mlp", "digits-cnn"])
def test_watching_changes_no_weight(name: str) -> None:
    """The watched batch is the very update that the unwatched one is."""
    data, labels = torch.rand(4, *input_shape(name)), torch.tensor([0, 1, 2, 0])
    states = []
    for watched in (False, True):
        torch.manual_seed(1)
        chain = Chain(build(name), SGD, (data,), labels, Clock())
        for _ in range(3):
            chain.by_block() if watched else chain.whole()
        states.append(chain.part.state_dict())
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def test_the_rate_of_copying_counts_every_byte_twice() -> None:
    """Once for the copy and once for the fold; every reading of the clock is a second later than the last."""
    times = iter(range(1000))
    part = build("mlp")
    rate = copied_bytes_per_s(
        part,
        block_model(ModelSection("mlp")).part(0, len(part)),
        aggregations.get("splitfed-v1"),
        lambda: float(next(times)),
    )
    assert rate == 2 * sum(tensor.nbytes for tensor in part.state_dict().values())
