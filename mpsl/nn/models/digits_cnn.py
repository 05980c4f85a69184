"""digits-cnn: a small convolutional network with BatchNorm, made for 8×8 handwritten digits; it also suits 28×28."""

import dataclasses

from torch import nn

from mpsl.nn.models import Model, models


@models.register("digits-cnn")
@dataclasses.dataclass(frozen=True)
class DigitsCnn(Model):
    """Seven convolutions, pooled after the third and the sixth, and two linear layers: nine blocks."""

    in_channels: int = 1
    image_size: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("image_size", at_least=4)  # two poolings
        self.require("dropout", at_least=0, below=1)

    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.image_size, self.image_size)

    def blocks(self) -> list[nn.Module]:
        features = 64 * (self.image_size // 4) ** 2
        return [
            _convolution(self.in_channels, 16),
            _convolution(16, 16),
            _convolution(16, 32, nn.MaxPool2d(2)),
            _convolution(32, 32),
            _convolution(32, 32),
            _convolution(32, 64, nn.MaxPool2d(2)),
            _convolution(64, 64),
            nn.Sequential(nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Dropout(self.dropout)),
            nn.Linear(64, self.num_classes),
        ]


def _convolution(inputs: int, outputs: int, *pooling: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(), *pooling)
