"""Optimizers by name, one a file: torch's own arithmetic for a step, without the class around it.

`torch.optim.Optimizer` imports torch._dynamo at its first use: a second and 74 MB in every process; and its steps make
temporary tensors of the parameter's size. Here the gradient's memory is used up instead, with the same bits.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from mpsl.job import OptimizerSection
from mpsl.registry import Registry


class Optimizer(Protocol):
    """Steps parameters by their gradients; its state lives as long as it does."""

    def step(self, parameter: torch.nn.Parameter) -> None:
        """Move `parameter` by its gradient, which may hold anything afterwards or be kept as state: let go of it."""

    def state_bytes(self) -> int:
        """Bytes of all state."""


optimizers: Registry[Callable[[OptimizerSection], Optimizer]] = Registry("optimizer", "mpsl.nn.optimizers")
