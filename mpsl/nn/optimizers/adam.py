"""Adam (Kingma and Ba 2015, algorithm 1) with L2 weight decay, bit for bit as torch.optim.Adam computes it."""

from dataclasses import dataclass

import torch

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import optimizers

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class _State:
    average: torch.Tensor
    square: torch.Tensor
    steps: int = 0


@optimizers.register("adam")
class Adam:
    """Two moments a parameter."""

    def __init__(self, section: OptimizerSection) -> None:
        self._section = section
        self._states: dict[torch.nn.Parameter, _State] = {}

    @torch.no_grad()
    def step(self, parameter: torch.nn.Parameter) -> None:
        """One step; the denominator is made in the gradient's memory."""
        gradient = parameter.grad
        assert gradient is not None
        if parameter not in self._states:
            self._states[parameter] = _State(torch.zeros_like(parameter), torch.zeros_like(parameter))
        state = self._states[parameter]
        state.steps += 1
        if self._section.weight_decay:
            gradient.add_(parameter, alpha=self._section.weight_decay)
        state.average.lerp_(gradient, 1 - BETA1)
        state.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        step_size = self._section.lr / (1 - BETA1**state.steps)
        root = torch.sqrt(state.square, out=gradient)
        root.div_((1 - BETA2**state.steps) ** 0.5).add_(EPSILON)
        parameter.addcdiv_(state.average, root, value=-step_size)

    def state_bytes(self) -> int:
        """Of both moments."""
        return sum(state.average.nbytes + state.square.nbytes for state in self._states.values())
