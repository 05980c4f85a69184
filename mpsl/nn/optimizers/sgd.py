"""Stochastic gradient descent with momentum and weight decay, bit for bit as torch.optim.SGD computes it."""

import torch

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import optimizers


@optimizers.register("sgd")
class Sgd:
    """One momentum buffer a parameter where there is momentum, nothing otherwise."""

    def __init__(self, section: OptimizerSection) -> None:
        self._section = section
        self._momentum: dict[torch.nn.Parameter, torch.Tensor] = {}

    @torch.no_grad()
    def step(self, parameter: torch.nn.Parameter) -> None:
        """p -= lr · (momentum · buffer + gradient + weight_decay · p); the first gradient becomes the buffer."""
        change = parameter.grad
        assert change is not None
        if self._section.weight_decay:
            change.add_(parameter, alpha=self._section.weight_decay)
        if self._section.momentum:
            if parameter in self._momentum:
                change = self._momentum[parameter].mul_(self._section.momentum).add_(change)
            else:
                self._momentum[parameter] = change
        parameter.add_(change, alpha=-self._section.lr)

    def state_bytes(self) -> int:
        """Of the buffers."""
        return sum(buffer.nbytes for buffer in self._momentum.values())
