"""Stochastic gradient descent with momentum and weight decay, bit for bit as torch.optim.SGD computes it."""

from typing import TYPE_CHECKING, ClassVar

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import Optimizer, optimizers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@optimizers.register("sgd")
class Sgd(Optimizer):
    """Keeps one momentum buffer per parameter with momentum, and no state without."""

    uses_momentum = True
    uses_nesterov = True
    kinds: ClassVar = {"sgd": {}, "momentum": {"momentum": 0.9}}

    def __init__(self, section: OptimizerSection) -> None:
        super().__init__(section)
        self._momentum: dict[Parameter, Tensor] = {}

    @classmethod
    def kind_of(cls, section: OptimizerSection) -> str:
        return "momentum" if section.momentum else "sgd"

    @classmethod
    def state_bytes(cls, section: OptimizerSection, parameter_bytes: int) -> int:
        return parameter_bytes if section.momentum else 0

    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """Step by lr · buffer, where buffer = momentum · buffer + (1 - dampening) · gradient, decay included.

        The first gradient becomes the buffer. With nesterov, the step is by gradient + momentum · buffer.
        """
        change = gradient
        if self.section.weight_decay:
            change.add_(parameter, alpha=self.section.weight_decay)
        if self.section.momentum:
            if parameter in self._momentum:
                buffer = self._momentum[parameter].mul_(self.section.momentum)
                buffer.add_(change, alpha=1 - self.section.dampening)
            else:
                buffer = self._momentum[parameter] = change.clone() if self.section.nesterov else change
            change = change.add_(buffer, alpha=self.section.momentum) if self.section.nesterov else buffer
        parameter.add_(change, alpha=-self.lr)

    def held_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._momentum.values())
