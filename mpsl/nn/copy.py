"""One device's copy of a part in training: forward keeps, backward uses, the last backward of a batch steps.

Holds at most one batch: the activations of its micro-batches between forward and backward.
"""

import torch
from torch import nn

from mpsl.job import OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.optimizers import optimizers
from mpsl.nn.part import Seeds

Position = tuple[int, int, int]


class Copy:
    """`part` belongs to this copy alone; `input_gradient`: whether someone before this part wants one."""

    def __init__(self, part: nn.Sequential, optimizer: OptimizerSection, seed: int, input_gradient: bool) -> None:
        self.part = part.train()
        self._optimizer = optimizers.get(optimizer.name)(optimizer)
        self._seeds = Seeds(seed)
        self._input_gradient = input_gradient
        self._kept: dict[Position, tuple[torch.Tensor, torch.Tensor]] = {}

    def forward(self, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        """The part's output; what backward needs is kept."""
        if self._input_gradient:
            value.requires_grad_()
        output = self._seeds.forward(self.part, ticket, value)
        self._kept[_position(ticket)] = (value, output)
        return output.detach()

    def backward(self, ticket: Ticket, gradient: torch.Tensor) -> torch.Tensor | None:
        """The gradient of the input, after the gradients of the part have been added up."""
        value, output = self._kept.pop(_position(ticket))
        if output.requires_grad:
            output.backward(gradient)
        return value.grad

    def step(self) -> None:
        """One optimizer step; the gradients' memory is given back."""
        self._optimizer.step(self.part.parameters())
        self.part.zero_grad(set_to_none=True)


def _position(ticket: Ticket) -> Position:
    return ticket.epoch, ticket.batch, ticket.micro
