"""mlp: a multilayer perceptron over flattened samples."""

import dataclasses
import itertools
import math

import torch
from torch import nn

from mpsl.nn.models import Model, models


@models.register("mlp")
@dataclasses.dataclass(frozen=True)
class Mlp(Model):
    """One block for each hidden width and one for the output.

    Samples may have any shape with `in_features` numbers. Its default is in_channels × image_size². `residual` adds a
    hidden block's input to its output wherever both have the same width.
    """

    in_channels: int = 1
    image_size: int = 8
    in_features: int | None = None
    hidden: tuple[int, ...] = (128, 128, 128, 128)
    dropout: float = 0.0
    batch_norm: bool = False
    residual: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("image_size", at_least=1)
        if self.in_features is not None:
            self.require("in_features", at_least=1)
        self.require("dropout", at_least=0, below=1)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden = {list(self.hidden)}, but it must name at least one width, all positive")

    def input_shape(self) -> tuple[int, ...]:
        if self.in_features is not None:
            return (self.in_features,)
        return (self.in_channels, self.image_size, self.image_size)

    def accepts(self, shape: tuple[int, ...]) -> bool:
        return math.prod(shape) == math.prod(self.input_shape())

    def blocks(self) -> list[nn.Module]:
        widths = [math.prod(self.input_shape()), *self.hidden]
        hidden = [self._hidden(number, *pair) for number, pair in enumerate(itertools.pairwise(widths))]
        return [*hidden, nn.Linear(widths[-1], self.num_classes)]

    def _hidden(self, number: int, inputs: int, outputs: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(inputs, outputs, bias=not self.batch_norm)]
        if self.batch_norm:
            layers.append(nn.BatchNorm1d(outputs))
        layers.append(nn.ReLU())
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        if number == 0:
            return nn.Sequential(nn.Flatten(), *layers)
        return _ResidualLayers(*layers) if self.residual and inputs == outputs else nn.Sequential(*layers)


class _ResidualLayers(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.body(input)
        return input + output
