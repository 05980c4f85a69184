"""Stepping on the way of backward gives torch.optim's bits, and no whole set of gradients is ever there."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from mpsl.job import ModelSection, OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.block_model import block_model
from mpsl.nn.models import build
from mpsl.nn.optimizers import optimizers
from mpsl.nn.part import Seeds, allocated
from mpsl.nn.training_copy import TrainingCopy, saved_bytes

OPTIMIZERS: dict[str, tuple[OptimizerSection, Any]] = {
    "sgd": (OptimizerSection("sgd", 0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd-momentum": (OptimizerSection("sgd", 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "sgd-decay": (
        OptimizerSection("sgd", 0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ),
    "adam": (OptimizerSection("adam", 0.003), lambda p: torch.optim.Adam(p, 0.003)),
    "sgd-nesterov": (
        OptimizerSection("sgd", 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "sgd-dampening": (
        OptimizerSection("sgd", 0.1, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.5),
    ),
    "adamw": (
        OptimizerSection("adamw", 0.003, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.003, weight_decay=0.1),
    ),
    "rmsprop": (OptimizerSection("rmsprop", 0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "rmsprop-momentum": (
        OptimizerSection("rmsprop", 0.01, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, weight_decay=0.01),
    ),
    "adam-decay": (
        OptimizerSection("adam", 0.003, weight_decay=0.01),
        lambda p: torch.optim.Adam(p, 0.003, weight_decay=0.01),
    ),
}  # fmt: skip


def ticket(batch: int, micro: int = 0, micros: int = 1) -> Ticket:
    return Ticket(1, 1, "dev-1", 1, 0, batch, micro, micros)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_give_the_bits_of_torch(name: str) -> None:
    section, reference = OPTIMIZERS[name]
    torch.manual_seed(0)
    ours = nn.Parameter(torch.randn(37, 11))
    theirs = nn.Parameter(ours.detach().clone())
    stepping, optimizer = optimizers.get(section.name)(section), reference([theirs])
    for _ in range(5):
        gradient = torch.randn(37, 11)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        stepping.step(ours)
        optimizer.step()
        assert torch.equal(ours, theirs)
    assert stepping.held_bytes() == type(stepping).state_bytes(section, ours.nbytes)


@pytest.mark.parametrize("name", ["sgd-decay", "adam-decay"])
@pytest.mark.parametrize("micros", [1, 3])
def test_stepping_in_backward_equals_stepping_after_it(name: str, micros: int) -> None:
    """Deep enough that a gradient made of weights already stepped would show."""
    torch.set_num_threads(1)
    section, reference = OPTIMIZERS[name]
    torch.manual_seed(0)
    whole = build("digits-cnn", dropout=0.2)[:-1]
    copied = TrainingCopy(copy.deepcopy(whole), section, seed=5, input_gradient=True)
    optimizer, seeds = reference(whole.parameters()), Seeds(5)
    for batch in range(3):
        for micro in range(micros):
            now = ticket(batch, micro, micros)
            value = torch.randn(6, 1, 8, 8)
            mine = value.clone().requires_grad_()
            (output,) = seeds.forward(whole.train(), now, (mine,))
            gradient = torch.randn_like(output)
            output.backward(gradient)
            assert torch.equal(copied.forward(now, (value,))[0], output)
            assert torch.equal(copied.backward(now, (gradient,))[0], mine.grad)
            if micro == 0 and micros > 1:
                assert copied.gradient_bytes() == sum(p.nbytes for p in whole.parameters())
        optimizer.step()
        optimizer.zero_grad()
        assert all(
            torch.equal(a, b)
            for a, b in zip(copied.part.state_dict().values(), whole.state_dict().values(), strict=True)
        )
    assert copied.gradient_bytes() == 0
    states = 2 if section.name == "adam" else 1
    assert copied.optimizer_bytes() == states * sum(p.nbytes for p in whole.parameters())


def test_a_batch_that_was_broken_off_leaves_nothing_in_the_part() -> None:
    """A device whose attempt is discarded between two micro-batches begins the next one with the same part."""
    section, _ = OPTIMIZERS["sgd"]
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(4, 3))
    fresh = copy.deepcopy(part)
    value, gradient = torch.randn(2, 4), torch.randn(2, 3)
    broken_off = TrainingCopy(part, section, 0, input_gradient=False)
    for micro in (0, 1):
        broken_off.forward(ticket(0, micro, 3), (value,))
        broken_off.backward(ticket(0, micro, 3), (gradient,))
    for each in (part, fresh):
        again = TrainingCopy(each, section, 0, input_gradient=False)
        again.forward(ticket(0), (value,))
        again.backward(ticket(0), (gradient,))
    assert all(map(torch.equal, part.parameters(), fresh.parameters()))


def test_a_second_copy_of_the_same_part_steps_once() -> None:
    """A device trains the same part in every round, with a fresh optimizer."""
    part = nn.Sequential(nn.Linear(1, 1, bias=False))
    nn.init.ones_(part[0].weight)
    for expected in (0.0, -1.0):
        copied = TrainingCopy(part, OptimizerSection("sgd", 1.0), 0, input_gradient=True)
        (output,) = copied.forward(ticket(0), (torch.ones(1, 1),))
        copied.backward(ticket(0), (torch.ones_like(output),))
        assert part[0].weight.item() == expected


def test_a_parameter_that_only_an_early_micro_batch_reached_is_stepped() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.seldom = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value * self.often * (self.seldom if value.sum() > 0 else 1)

    copied = TrainingCopy(nn.Sequential(Gate()), OptimizerSection("sgd", 1.0), 0, input_gradient=True)
    for micro, sign in enumerate((1.0, -1.0)):
        copied.forward(ticket(0, micro, 2), (torch.full((1, 3), sign),))
        copied.backward(ticket(0, micro, 2), (torch.ones(1, 3),))
    assert torch.equal(copied.part[0].seldom, torch.zeros(3))
    assert copied.gradient_bytes() == 0


def test_one_micro_batch_holds_no_more_than_the_largest_gradient() -> None:
    part = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(6)))
    copied = TrainingCopy(part, OptimizerSection("sgd", 0.1, momentum=0.9), 0, input_gradient=True)
    for batch in range(2):
        (output,) = copied.forward(ticket(batch), (torch.ones(2, 64),))
        copied.backward(ticket(batch), (torch.ones_like(output),))
    assert copied.peak_gradient_bytes == 64 * 64 * 4
    assert all(parameter.grad is None for parameter in part.parameters())


@pytest.mark.parametrize(
    ("model", "args", "blocks"), [("digits-cnn", {"dropout": 0.2}, (1, 8)), ("lenet5", {}, (1, 4))]
)
def test_stored_bytes_counts_what_autograd_keeps(model: str, args: dict[str, Any], blocks: tuple[int, int]) -> None:
    part = allocated(block_model(ModelSection(model, args)).part(*blocks))
    nn.ModuleList([part]).apply(lambda m: m.reset_parameters() if hasattr(m, "reset_parameters") else None)
    before = build(model, **args)[: blocks[0]]
    shape = (1, 8, 8) if model == "digits-cnn" else (1, 28, 28)
    value = before(torch.randn(16, *shape)).detach().requires_grad_()
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = part(value)
    saved[output.untyped_storage().data_ptr()] = output.untyped_storage()
    for known in (value, *part.parameters()):
        saved.pop(known.untyped_storage().data_ptr(), None)
    assert saved_bytes((part(value),), [value, *part.parameters()]) == sum(each.nbytes() for each in saved.values())


def test_activations_are_counted_while_they_are_kept() -> None:
    part = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.ReLU()))
    for recompute, expected in ((False, 4 * 4 * (8 + 16)), (True, 4 * 4 * 8)):
        copied = TrainingCopy(
            copy.deepcopy(part), OptimizerSection("sgd", 0.1), 0, input_gradient=True, recompute=recompute
        )
        (output,) = copied.forward(ticket(0), (torch.ones(4, 8),))
        assert copied.activation_bytes() == expected
        copied.backward(ticket(0), (functional.relu(output),))
        assert copied.activation_bytes() == 0
