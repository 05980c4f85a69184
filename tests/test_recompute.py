"""An activation that is computed again gives the bit-identical gradient, and leaves every buffer as one pass does."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from mpsl.job import OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.models import build
from mpsl.nn.training_copy import TrainingCopy

MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "dropout-and-batch-norm": ("digits-cnn", {"dropout": 0.3}, (1, 8, 8)),
    "residual": ("resnet18", {"num_classes": 10, "image_size": 32}, (3, 32, 32)),
    "no-buffers": ("lenet5", {}, (1, 28, 28)),
}


class Counting(nn.Module):
    """A block whose output depends on a buffer that every training forward changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Scaled by how many passes there were before."""
        with torch.no_grad():
            self.seen.add_(1)
        return value * self.weight * self.seen.item()


def copies(part: nn.Sequential) -> tuple[TrainingCopy, TrainingCopy]:
    section = OptimizerSection("sgd", 0.05, momentum=0.9)
    kept = TrainingCopy(copy.deepcopy(part), section, 3, input_gradient=True)
    return kept, TrainingCopy(part, section, 3, input_gradient=True, recompute=True)


def same(one: TrainingCopy, other: TrainingCopy) -> bool:
    pairs = zip(one.part.state_dict().values(), other.part.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_recomputed_gradients_are_bit_identical(name: str) -> None:
    """All forwards of a batch before its backwards, other devices' work in between, three batches of two."""
    torch.set_num_threads(1)
    model, args, shape = MODELS[name]
    torch.manual_seed(1)
    part = build(model, **args)[:-1]
    kept, again = copies(part)
    chance = torch.Generator().manual_seed(7)
    for batch in range(3):
        tickets = [Ticket(1, 1, "dev-1", 1, 0, batch, micro, 2) for micro in range(2)]
        values = [torch.randn(4, *shape, generator=chance) for _ in tickets]
        outputs = [kept.forward(t, (v.clone(),))[0] for t, v in zip(tickets, values, strict=True)]
        torch.manual_seed(99)
        for ticket, value, output in zip(tickets, values, outputs, strict=True):
            assert torch.equal(again.forward(ticket, (value.clone(),))[0], output)
        torch.rand(5)  # someone else's chance
        for ticket, output in zip(tickets, outputs, strict=True):
            gradient = torch.randn(output.shape, generator=chance)
            assert torch.equal(*kept.backward(ticket, (gradient.clone(),)), *again.backward(ticket, (gradient,)))
        assert same(kept, again)


def test_buffers_that_matter_are_those_of_the_first_pass() -> None:
    kept, again = copies(nn.Sequential(Counting(), Counting()))
    tickets = [Ticket(1, 1, "dev-1", 1, 0, 0, micro, 3) for micro in range(3)]
    for each in (kept, again):
        for ticket in tickets:
            each.forward(ticket, (torch.ones(1, 3),))
    for ticket in tickets:
        assert torch.equal(*kept.backward(ticket, (torch.ones(1, 3),)), *again.backward(ticket, (torch.ones(1, 3),)))
    assert same(kept, again)
    assert again.part[0].seen.item() == 3
