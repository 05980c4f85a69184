"""RMSprop (Hinton, lecture 6e of Neural Networks for Machine Learning, 2012), as torch.optim.RMSprop computes it."""

from typing import TYPE_CHECKING, ClassVar

from mpsl.job import OptimizerSection
from mpsl.nn.optimizers import Optimizer, optimizers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

ALPHA, EPSILON = 0.99, 1e-8


@optimizers.register("rmsprop")
class RmsProp(Optimizer):
    """Keeps the average square per parameter, and with momentum a buffer."""

    uses_momentum = True
    kinds: ClassVar = {"rmsprop": {}, "rmsprop-momentum": {"momentum": 0.9}}

    def __init__(self, section: OptimizerSection) -> None:
        super().__init__(section)
        self._squares: dict[Parameter, Tensor] = {}
        self._momentum: dict[Parameter, Tensor] = {}

    @classmethod
    def kind_of(cls, section: OptimizerSection) -> str:
        return "rmsprop-momentum" if section.momentum else "rmsprop"

    @classmethod
    def state_bytes(cls, section: OptimizerSection, parameter_bytes: int) -> int:
        return parameter_bytes * (2 if section.momentum else 1)

    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """p -= lr · gradient / (√average square + ε), or by the buffer that adds these up."""
        import torch

        if self.section.weight_decay:
            gradient.add_(parameter, alpha=self.section.weight_decay)
        if parameter not in self._squares:
            self._squares[parameter] = torch.zeros_like(parameter)
        square = self._squares[parameter].mul_(ALPHA).addcmul_(gradient, gradient, value=1 - ALPHA)
        root = square.sqrt().add_(EPSILON)
        if not self.section.momentum:
            parameter.addcdiv_(gradient, root, value=-self.lr)
            return
        if parameter not in self._momentum:
            self._momentum[parameter] = torch.zeros_like(parameter)
        change = self._momentum[parameter].mul_(self.section.momentum).addcdiv_(gradient, root)
        parameter.add_(change, alpha=-self.lr)

    def held_bytes(self) -> int:
        return sum(tensor.nbytes for held in (self._squares, self._momentum) for tensor in held.values())
