"""The models that can be trained, by name. Each is a chain of blocks that can be cut between any two.

A model is one file here: a frozen dataclass whose fields are its arguments and whose `blocks()` makes its layers. Every
block takes one tensor and returns one. It works out of place, because a hop may keep a block's input to recompute it.
Weights depend on torch's generator alone, so `torch.manual_seed(seed)` before `build` fixes them. Building under
`torch.device("meta")` allocates nothing. A model must never look at the network, the plan or the data.
"""

import abc
import dataclasses
from typing import Any

from torch import nn

from mpsl import facts
from mpsl.registry import Registry


@dataclasses.dataclass(frozen=True)
class Model(abc.ABC):
    """One model with its arguments. A subclass adds fields with defaults and checks their ranges (ValueError)."""

    num_classes: int = 10

    def __post_init__(self) -> None:
        self.require("num_classes", at_least=2)

    def require(self, argument: str, at_least: float, below: float | None = None) -> None:
        """Raise ValueError unless at_least <= argument < below."""
        value = getattr(self, argument)
        if not value >= at_least or (below is not None and not value < below):  # this form refuses NaN
            limit = f"at least {at_least}" + (f" and below {below}" if below is not None else "")
            raise ValueError(f"{argument} = {value}, but it must be {limit}")

    @abc.abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""

    @abc.abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return new blocks with initial weights, first to last."""

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether the model takes samples of this shape."""
        return shape == self.input_shape()


models: Registry[type[Model]] = Registry("model", __name__, "mpsl.models")


def names() -> list[str]:
    """Return the names of all models, sorted."""
    return models.names()


def arguments(name: str) -> dict[str, Any]:
    """Return the arguments of a model with their defaults. Raises UsageError for an unknown model."""
    return {field.name: facts.plain(field.default) for field in dataclasses.fields(models.get(name))}


def describe(name: str, **args: Any) -> Model:
    """Return a model with its arguments, not built. Raises UsageError for a wrong name, argument, type or range."""
    return facts.read(models.get(name), args, f"model {name}")


def build(name: str, **args: Any) -> nn.Sequential:
    """Build a model whose items are the blocks that `cuts` counts. Raises UsageError as `describe` does."""
    return nn.Sequential(*describe(name, **args).blocks())


def input_shape(name: str, **args: Any) -> tuple[int, ...]:
    """Return the shape of one sample (no batch dimension): C×H×W, C×L or F. Raises UsageError as `describe` does."""
    return describe(name, **args).input_shape()
