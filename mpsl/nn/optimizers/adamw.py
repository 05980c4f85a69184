"""AdamW (Loshchilov and Hutter 2019, algorithm 2): Adam with decoupled decay, as torch.optim.AdamW computes it."""

from typing import TYPE_CHECKING, ClassVar

from mpsl.nn.optimizers import optimizers
from mpsl.nn.optimizers.adam import Adam

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@optimizers.register("adamw")
class AdamW(Adam):
    """Keeps two moments per parameter. The decay shrinks the parameter itself, not through the moments."""

    kinds: ClassVar = {"adamw": {}}

    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """Shrink the parameter by lr · weight_decay, then do Adam's step without decay."""
        if self.section.weight_decay:
            parameter.mul_(1 - self.lr * self.section.weight_decay)
        self.step_by_moments(parameter, gradient)
