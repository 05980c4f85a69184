"""vgg11, vgg16, vgg19: the published networks without BatchNorm (arXiv 1409.1556), also for small images."""

import dataclasses
from typing import ClassVar

from torch import nn

from mpsl.names import nearest
from mpsl.nn.models import Model, models

_WIDTHS = (64, 128, 256, 512, 512)
_HEADS = ("full", "small")


@dataclasses.dataclass(frozen=True)
class Vgg(Model):
    """One block for each convolution, the last of a group with its pooling, and one for each linear layer.

    `head = "full"` is the published classifier over 7×7 features; features of other sizes are averaged to 7×7.
    `"small"` is one linear layer over the features as they are.
    """

    convolutions: ClassVar[tuple[int, ...]]
    """The number of convolutions in each of the five groups."""

    num_classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    head: str = "full"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("image_size", at_least=32)  # five poolings
        if self.head not in _HEADS:
            raise ValueError(f"head = {self.head!r}; {nearest(self.head, _HEADS)}")

    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    def blocks(self) -> list[nn.Module]:
        blocks = [*self._features(), *(self._full_head() if self.head == "full" else self._small_head())]
        for module in nn.Sequential(*blocks).modules():
            _initialise(module)
        return blocks

    def _features(self) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        inputs = self.in_channels
        for width, count in zip(_WIDTHS, self.convolutions, strict=True):
            for number in range(count):
                pooling = [nn.MaxPool2d(2)] if number == count - 1 else []
                blocks.append(nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(), *pooling))
                inputs = width
        return blocks

    def _full_head(self) -> list[nn.Module]:
        return [
            nn.Sequential(
                nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(_WIDTHS[-1] * 49, 4096), nn.ReLU(), nn.Dropout(0.5)
            ),
            nn.Sequential(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(4096, self.num_classes),
        ]

    def _small_head(self) -> list[nn.Module]:
        return [nn.Sequential(nn.Flatten(), nn.Linear(_WIDTHS[-1] * (self.image_size // 32) ** 2, self.num_classes))]


@models.register("vgg11")
@dataclasses.dataclass(frozen=True)
class Vgg11(Vgg):
    """11 layers."""

    convolutions = (1, 1, 2, 2, 2)


@models.register("vgg16")
@dataclasses.dataclass(frozen=True)
class Vgg16(Vgg):
    """16 layers."""

    convolutions = (2, 2, 3, 3, 3)


@models.register("vgg19")
@dataclasses.dataclass(frozen=True)
class Vgg19(Vgg):
    """19 layers."""

    convolutions = (2, 2, 4, 4, 4)


def _initialise(module: nn.Module) -> None:
    """Set the usual initial weights. With torch's defaults, a network this deep without BatchNorm does not train."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
