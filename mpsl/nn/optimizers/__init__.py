"""Optimizers by name, one a file: torch's own arithmetic for a step, without the class around it.

`torch.optim.Optimizer` imports torch._dynamo at its first use: a second and 74 MB in every process. The functional forms
behind `torch.optim.SGD` and `Adam` give the same bits.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch

from mpsl.job import OptimizerSection
from mpsl.registry import Registry


class Optimizer(Protocol):
    """Steps parameters by their gradients; its state lives as long as it does."""

    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Move each parameter that has a gradient."""


optimizers: Registry[Callable[[OptimizerSection], Optimizer]] = Registry("optimizer", "mpsl.nn.optimizers")
