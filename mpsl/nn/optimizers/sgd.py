"""Stochastic gradient descent with momentum and weight decay, as torch.optim.SGD computes it."""

from collections.abc import Iterable

import torch
from torch.optim.sgd import sgd

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import optimizers


@optimizers.register("sgd")
class Sgd:
    """One momentum buffer a parameter where there is momentum, nothing otherwise."""

    def __init__(self, section: OptimizerSection) -> None:
        self._section = section
        self._momentum: dict[torch.nn.Parameter, torch.Tensor | None] = {}

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """p -= lr · (momentum · buffer + gradient + weight_decay · p)."""
        for parameter in parameters:
            if parameter.grad is None:
                continue
            buffers = [self._momentum.get(parameter)]
            sgd(
                [parameter],
                [parameter.grad],
                buffers,
                has_sparse_grad=False,
                foreach=False,
                fused=False,
                weight_decay=self._section.weight_decay,
                momentum=self._section.momentum,
                lr=self._section.lr,
                dampening=0,
                nesterov=False,
                maximize=False,
            )
            if self._section.momentum:
                self._momentum[parameter] = buffers[0]
