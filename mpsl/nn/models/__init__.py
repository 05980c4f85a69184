"""The models that can be trained, by name. Each is a chain of blocks that can be cut between any two.

A model is one file here: a frozen dataclass whose fields are its arguments and whose `blocks()` makes its layers. Every
block takes one tensor and returns one. It works out of place, because a hop may keep a block's input to recompute it.
Weights depend on torch's generator alone, so `torch.manual_seed(seed)` before `build` fixes them. Building under
`torch.device("meta")` allocates nothing. A model must never look at the network, the plan or the data.
"""

import abc
import dataclasses
from typing import Any

import torch
from torch import nn

from mpsl import facts, functions
from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.registry import Registry

HOW = "give the name of a model (see `mpsl models`) or package.module:function"


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


@dataclasses.dataclass(frozen=True)
class SampleSpec:
    """What a model takes: the shape of one sample, without the batch dimension, and the values' dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


def names() -> list[str]:
    """Return the names of all models, sorted."""
    return models.names()


def arguments(name: str) -> dict[str, Any]:
    """Return the arguments of a model with their defaults. Raises UsageError for an unknown model."""
    return {field.name: facts.plain(field.default) for field in dataclasses.fields(models.get(name))}


def describe(name: str, **args: Any) -> Model:
    """Return a model with its arguments, not built. Raises UsageError for a wrong name, argument, type or range."""
    return facts.read(models.get(name), args, f"model {name}")


def is_function(name: str) -> bool:
    """Whether a model's name is that of a function, `package.module:function`."""
    return ":" in name


def is_own(name: str) -> bool:
    """Whether a model is one of this package, which is the same on every machine of a run."""
    return not is_function(name) and models.get(name).__module__.startswith("mpsl.")


def build(name: str, **args: Any) -> nn.Module:
    """Build a model. A registered one is an `nn.Sequential` whose items are the blocks that `cuts` counts.

    Raises UsageError as `describe` does, and for a function that raises or returns no `nn.Module`.
    """
    if not is_function(name):
        return nn.Sequential(*describe(name, **args).blocks())
    where = f"model {name}"
    made = functions.call(functions.find(name, where, HOW), where, **args)
    if not isinstance(made, nn.Module):
        raise UsageError(f"{where}: the function must return an nn.Module, not {type(made).__name__}")
    return made


def sample_of(section: ModelSection, model: nn.Module) -> SampleSpec:
    """Return what the job's model takes. `model`: the built one, which may say so in `example_input`, a batch.

    Raises UsageError where nobody says it.
    """
    if not is_function(section.name):
        return SampleSpec(describe(section.name, **section.args).input_shape())
    if section.input is not None:
        return SampleSpec(section.input.shape, getattr(torch, section.input.dtype))
    example = getattr(model, "example_input", None)
    if isinstance(example, torch.Tensor) and example.ndim > 1:
        return SampleSpec(tuple(example.shape[1:]), example.dtype)
    raise UsageError(
        f"model {section.name} does not say what a sample is; add to [model]: input = {{ shape = [3, 32, 32] }} "
        '(and dtype = "int64" for tokens; --input 3x32x32 on a command line), or give the module an attribute '
        "example_input, a batch of any values"
    )


def input_shape(name: str, **args: Any) -> tuple[int, ...]:
    """Return the shape of one sample of a registered model. Raises UsageError as `describe` does."""
    return describe(name, **args).input_shape()
