"""Adam (Kingma and Ba 2015, algorithm 1) with L2 weight decay, as torch.optim.Adam computes it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.optim.adam import adam

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import optimizers

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class _State:
    average: torch.Tensor
    square: torch.Tensor
    steps: torch.Tensor


@optimizers.register("adam")
class Adam:
    """Two moments a parameter."""

    def __init__(self, section: OptimizerSection) -> None:
        self._section = section
        self._states: dict[torch.nn.Parameter, _State] = {}

    @torch.no_grad()
    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """One step of every parameter that has a gradient."""
        for parameter in parameters:
            if parameter.grad is None:
                continue
            if parameter not in self._states:
                zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                self._states[parameter] = _State(zeros, zeros.clone(), torch.tensor(0.0))
            state = self._states[parameter]
            adam(
                [parameter],
                [parameter.grad],
                [state.average],
                [state.square],
                [],
                [state.steps],
                foreach=False,
                fused=False,
                capturable=False,
                differentiable=False,
                amsgrad=False,
                beta1=BETA1,
                beta2=BETA2,
                lr=self._section.lr,
                weight_decay=self._section.weight_decay,
                eps=EPSILON,
                maximize=False,
                has_complex=False,
            )
