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
        """p -= lr · (momentum · buffer + gradient + weight_decay · p); the first gradient becomes the buffer."""
        change = gradient
        if self.section.weight_decay:
            change.add_(parameter, alpha=self.section.weight_decay)
        if self.section.momentum:
            if parameter in self._momentum:
                change = self._momentum[parameter].mul_(self.section.momentum).add_(change)
            else:
                self._momentum[parameter] = change
        parameter.add_(change, alpha=-self.section.lr)

    def held_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._momentum.values())
