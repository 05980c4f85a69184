"""What crosses a cut: the values, in order, and how each travels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Values = tuple[torch.Tensor, ...]
"""What goes into a block or comes out of it."""

NumberedBlock = tuple[int, Callable[[Values], Values]]
"""A block's number in the whole model, and the block as a function."""

EXACT = "raw"
"""The codec of values that no codec may change: integers, booleans, and what no gradient depends on."""


@dataclass(frozen=True)
class EdgeValue:
    """One value that crosses a cut."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    """For the batch that was asked for."""
    nbytes: int
    """Bytes for the batch that was asked for."""
    coded: bool = True
    """Whether the job's codec writes it. Integers, masks and the like always travel exactly."""
    differentiable: bool = True
    """Whether the model's own value requires a gradient."""
    gradient: bool = True
    """Whether a gradient comes back for it."""

    def sample_shape(self, batch: int) -> tuple[int, ...]:
        """The shape for one sample, where the first dimension is the `batch`."""
        return self.shape[1:] if self.shape[:1] == (batch,) else self.shape

    def codec(self, spec: str) -> str:
        """The codec that writes it where the job says `spec`."""
        return spec if self.coded else EXACT


Edge = tuple[EdgeValue, ...]

SINGLE: Edge = (EdgeValue("output", torch.float32, (), 0),)
"""What crosses every cut of an `nn.Sequential`: one tensor."""


def single_edge(value: torch.Tensor, gradient: bool = True) -> Edge:
    """What crosses a cut of an `nn.Sequential` where `value`, a batch, does."""
    dtype = value.dtype
    coded = dtype == torch.float32
    return (EdgeValue("output", dtype, tuple(value.shape), value.nbytes, coded, gradient, gradient),)


def coded_bytes(edge: Sequence[EdgeValue]) -> int:
    """Bytes that the job's codec writes."""
    return sum(value.nbytes for value in edge if value.coded)


def exact_bytes(edge: Sequence[EdgeValue]) -> int:
    """Bytes that always travel as they are."""
    return sum(value.nbytes for value in edge if not value.coded)


def gradient_bytes(edge: Sequence[EdgeValue]) -> int:
    """Bytes of the gradients that come back."""
    return sum(value.nbytes for value in edge if value.gradient)
