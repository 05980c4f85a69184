"""har-cnn: a one-dimensional convolutional network for human activity recognition from motion sensors (N×C×L)."""

import dataclasses

from torch import nn

from mpsl.nn.models import Model, models


@models.register("har-cnn")
@dataclasses.dataclass(frozen=True)
class HarCnn(Model):
    """Five convolutions over time, pooled after the second and the fourth, and two linear layers: seven blocks.

    The defaults are the nine signals, windows of 128 and six activities of the UCI smartphone data.
    """

    num_classes: int = 6
    in_channels: int = 9
    length: int = 128
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("in_channels", at_least=1)
        self.require("length", at_least=4)  # two poolings
        self.require("dropout", at_least=0, below=1)

    def input_shape(self) -> tuple[int, ...]:
        return (self.in_channels, self.length)

    def blocks(self) -> list[nn.Module]:
        return [
            _convolution(self.in_channels, 64),
            _convolution(64, 64, nn.MaxPool1d(2)),
            _convolution(64, 128),
            _convolution(128, 128, nn.MaxPool1d(2)),
            _convolution(128, 128),
            nn.Sequential(
                nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Dropout(self.dropout)
            ),
            nn.Linear(64, self.num_classes),
        ]


def _convolution(inputs: int, outputs: int, *pooling: nn.Module) -> nn.Sequential:
    convolution = nn.Conv1d(inputs, outputs, 5, padding=2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(outputs), nn.ReLU(), *pooling)
