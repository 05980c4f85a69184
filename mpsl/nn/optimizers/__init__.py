"""Optimizers by name, one per file: torch's arithmetic for a step, without `torch.optim.Optimizer`.

That class imports torch._dynamo at its first use, which costs a second and 74 MB in every process. Its steps also make
temporary tensors of the parameter's size. Here the gradient's memory is reused instead, and the result has the same
bits.

The planner asks an optimizer for the size of its state, in processes that never compute. So a file here may import
torch only inside the functions that compute.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from mpsl.errors import UsageError
from mpsl.job import OptimizerSection
from mpsl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Optimizer(ABC):
    """Steps parameters by their gradients. It owns its state. A subclass registers itself."""

    kinds: ClassVar[Mapping[str, Mapping[str, Any]]]
    """Settings whose steps differ in cost: keys of [optimizer], by their name in FLEET.toml."""

    uses_momentum: ClassVar[bool] = False
    uses_nesterov: ClassVar[bool] = False

    def __init__(self, section: OptimizerSection) -> None:
        self.section = section
        self.lr = section.lr
        """The rate of the present step; a schedule changes it."""

    @classmethod
    def kind_of(cls, section: OptimizerSection) -> str:
        """Return the key of `kinds` for a section. An optimizer with several kinds overrides this."""
        (kind,) = cls.kinds
        return kind

    @classmethod
    def check(cls, section: OptimizerSection) -> None:
        """Raise UsageError if the section has a setting that this optimizer does not take."""
        if section.momentum and not cls.uses_momentum:
            raise UsageError(
                f"optimizer.momentum = {section.momentum}: momentum belongs to sgd and rmsprop; "
                f"leave it out with {section.name}"
            )

        if (section.nesterov or section.dampening) and not cls.uses_nesterov:
            raise UsageError(
                f"optimizer.nesterov and optimizer.dampening belong to sgd; leave them out with {section.name}"
            )
        if (section.nesterov or section.dampening) and not section.momentum:
            raise UsageError("optimizer.nesterov and optimizer.dampening need optimizer.momentum")
        if section.nesterov and section.dampening:
            raise UsageError("optimizer.nesterov takes no optimizer.dampening")

    @classmethod
    @abstractmethod
    def state_bytes(cls, section: OptimizerSection, parameter_bytes: int) -> int:
        """Return the bytes of state for `parameter_bytes` of parameters (fp32) after a step. Budgets rely on it."""

    def step(self, parameter: "Parameter") -> None:
        """Step `parameter` by its gradient. The gradient is then overwritten or kept as state; do not use it again."""
        import torch

        assert parameter.grad is not None
        with torch.no_grad():
            self.update(parameter, parameter.grad)

    @abstractmethod
    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """Do the step; called by `step` while no graph is recorded."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Return the bytes of all state held now."""


optimizers: Registry[type[Optimizer]] = Registry("optimizer", "mpsl.nn.optimizers", "mpsl.optimizers")


def block_state_bytes(section: OptimizerSection, parameter_bytes: Iterable[int]) -> tuple[int, ...]:
    """Return the state bytes for blocks with these parameter bytes. Raises UsageError for an unknown optimizer."""
    optimizer = optimizers.get(section.name)
    return tuple(optimizer.state_bytes(section, each) for each in parameter_bytes)
