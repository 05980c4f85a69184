"""Adam (Kingma and Ba 2015, algorithm 1) with L2 weight decay, bit for bit as torch.optim.Adam computes it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import Optimizer, optimizers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@dataclass
class _State:
    average: "Tensor"
    square: "Tensor"
    steps: int = 0


@optimizers.register("adam")
class Adam(Optimizer):
    """Keeps two moments per parameter."""

    kinds: ClassVar = {"adam": {}}

    def __init__(self, section: OptimizerSection) -> None:
        super().__init__(section)
        self._states: dict[Parameter, _State] = {}

    @classmethod
    def state_bytes(cls, section: OptimizerSection, parameter_bytes: int) -> int:
        return 2 * parameter_bytes

    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """Do one step; the denominator is computed in the gradient's memory."""
        if self.section.weight_decay:
            gradient.add_(parameter, alpha=self.section.weight_decay)
        self.step_by_moments(parameter, gradient)

    def step_by_moments(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """Do the step without any weight decay."""
        import torch

        if parameter not in self._states:
            self._states[parameter] = _State(torch.zeros_like(parameter), torch.zeros_like(parameter))
        state = self._states[parameter]
        state.steps += 1
        state.average.lerp_(gradient, 1 - BETA1)
        state.square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        step_size = self.lr / (1 - BETA1**state.steps)
        root = torch.sqrt(state.square, out=gradient)
        root.div_((1 - BETA2**state.steps) ** 0.5).add_(EPSILON)
        parameter.addcdiv_(state.average, root, value=-step_size)

    def held_bytes(self) -> int:
        return sum(state.average.nbytes + state.square.nbytes for state in self._states.values())
