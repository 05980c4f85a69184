"""Optimizers by name, one a file: torch's own arithmetic for a step, without the class around it.

`torch.optim.Optimizer` imports torch._dynamo at its first use: a second and 74 MB in every process; and its steps make
temporary tensors of the parameter's size. Here the gradient's memory is used up instead, with the same bits.

The planner asks an optimizer for the size of its state, in processes that never compute. So no file here may import
torch when it is loaded, only inside the functions that compute.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar

from mpsl.errors import UsageError
from mpsl.job import OptimizerSection
from mpsl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


class Optimizer(ABC):
    """Steps parameters by their gradients; its state lives as long as it does. A subclass registers itself."""

    kinds: ClassVar[Mapping[str, Mapping[str, float]]]
    """The settings that differ in what a step costs, by the name that FLEET.toml has for each: keys of [optimizer]."""

    uses_momentum: ClassVar[bool] = False

    def __init__(self, section: OptimizerSection) -> None:
        self.section = section

    @classmethod
    def kind_of(cls, section: OptimizerSection) -> str:
        """The key of `kinds` whose step costs what the section's does; one that has several overrides this."""
        (kind,) = cls.kinds
        return kind

    @classmethod
    def check(cls, section: OptimizerSection) -> None:
        """Raise UsageError where the section has a setting that this optimizer does not take."""
        if section.momentum and not cls.uses_momentum:
            raise UsageError(
                f"optimizer.momentum = {section.momentum}: momentum belongs to sgd; leave it out with {section.name}"
            )

    @classmethod
    @abstractmethod
    def state_bytes(cls, section: OptimizerSection, parameter_bytes: int) -> int:
        """Bytes of state that the parameters of `parameter_bytes` (fp32) have after a step; budgets rely on it."""

    def step(self, parameter: "Parameter") -> None:
        """Move `parameter` by its gradient, which may hold anything afterwards or be kept as state: let go of it."""
        import torch

        assert parameter.grad is not None
        with torch.no_grad():
            self.update(parameter, parameter.grad)

    @abstractmethod
    def update(self, parameter: "Parameter", gradient: "Tensor") -> None:
        """What `step` does, while no graph is recorded."""

    @abstractmethod
    def held_bytes(self) -> int:
        """Bytes of all state, as of now."""


optimizers: Registry[type[Optimizer]] = Registry("optimizer", "mpsl.nn.optimizers", "mpsl.optimizers")


def block_state_bytes(section: OptimizerSection, parameter_bytes: Iterable[int]) -> tuple[int, ...]:
    """Bytes of the optimizer's state for blocks with so many bytes of parameters; UsageError for an unknown one."""
    optimizer = optimizers.get(section.name)
    return tuple(optimizer.state_bytes(section, each) for each in parameter_bytes)
