"""lenet5: LeNet-5 with the rectifiers and maximum pooling usual today; 61,706 parameters at 28×28 and at 32×32."""

import dataclasses

from torch import nn

from mpsl.nn.models import Model, models


@models.register("lenet5")
@dataclasses.dataclass(frozen=True)
class Lenet5(Model):
    """Two convolutions with pooling and three linear layers: five blocks.

    The published geometry is 32×32. Smaller images are padded by 2 at the first convolution, which turns 28×28 into
    32×32. Below 12×12 the second convolution pads too, so that something is left to pool.
    """

    in_channels: int = 1
    image_size: int = 28

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("image_size", at_least=4)  # two poolings

    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    def blocks(self) -> list[nn.Module]:
        first = 2 if self.image_size < 32 else 0
        second = 2 if self.image_size < 12 else 0
        side = (self.image_size + 2 * first - 4) // 2
        side = (side + 2 * second - 4) // 2
        return [
            nn.Sequential(nn.Conv2d(self.in_channels, 6, 5, padding=first), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(6, 16, 5, padding=second), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(16 * side**2, 120), nn.ReLU()),
            nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, self.num_classes),
        ]
