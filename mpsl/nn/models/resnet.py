"""resnet18, resnet50, resnet101: the published networks (arXiv 1512.03385), with the CIFAR stem for small images.

A bottleneck has its stride at the 3×3 convolution, as is usual today; this does not change the number of parameters.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import nn

from mpsl.nn.models import Model, models

_WIDTHS = (64, 128, 256, 512)
_SMALL = 64
"""The largest image size with the CIFAR stem: 3×3, stride 1, no pooling."""


class _ResidualBlock(nn.Module):
    """Adds the block's input to the body's output, through a 1×1 convolution where the shapes differ."""

    def __init__(self, body: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = body
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*_convolution(inputs, outputs, 1, stride))
        self.activation = nn.ReLU()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.activation(self.body(input) + self.shortcut(input))
        return output


@dataclasses.dataclass(frozen=True)
class Resnet(Model):
    """The stem, a block for every residual block, and the head."""

    residuals: ClassVar[tuple[int, ...]]
    """The number of residual blocks in each of the four groups."""
    expansion: ClassVar[int]
    """1: a residual block has two 3×3 convolutions. Otherwise it is a bottleneck, with an output this much wider."""

    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("image_size", at_least=8)  # three strides of 2

    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    def blocks(self) -> list[nn.Module]:
        blocks = [self._stem()]
        inputs = _WIDTHS[0]
        for group, (width, count) in enumerate(zip(_WIDTHS, self.residuals, strict=True)):
            for number in range(count):
                stride = 2 if group > 0 and number == 0 else 1
                blocks.append(self._residual(inputs, width, stride))
                inputs = width * self.expansion
        blocks.append(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, self.num_classes)))
        for module in nn.Sequential(*blocks).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return blocks

    def _stem(self) -> nn.Module:
        if self.image_size <= _SMALL:
            return nn.Sequential(*_convolution(self.in_channels, _WIDTHS[0], 3), nn.ReLU())
        layers = _convolution(self.in_channels, _WIDTHS[0], 7, stride=2)
        return nn.Sequential(*layers, nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))

    def _residual(self, inputs: int, width: int, stride: int) -> nn.Module:
        if self.expansion == 1:
            body = [*_convolution(inputs, width, 3, stride), nn.ReLU(), *_convolution(width, width, 3)]
        else:
            body = [
                *_convolution(inputs, width, 1),
                nn.ReLU(),
                *_convolution(width, width, 3, stride),
                nn.ReLU(),
                *_convolution(width, width * self.expansion, 1),
            ]
        return _ResidualBlock(nn.Sequential(*body), inputs, width * self.expansion, stride)


@models.register("resnet18")
@dataclasses.dataclass(frozen=True)
class Resnet18(Resnet):
    """18 layers."""

    residuals = (2, 2, 2, 2)
    expansion = 1


@models.register("resnet50")
@dataclasses.dataclass(frozen=True)
class Resnet50(Resnet):
    """50 layers."""

    residuals = (3, 4, 6, 3)
    expansion = 4


@models.register("resnet101")
@dataclasses.dataclass(frozen=True)
class Resnet101(Resnet):
    """101 layers."""

    residuals = (3, 4, 23, 3)
    expansion = 4


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
