"""The real data sets of the demo and the benchmarks, by name, one file each.

A data set is a function of a seed, registered with `@datasets.register`. The seed fixes which samples are held out.
Nothing is ever downloaded: each data set comes with an installed package. The error for a missing one says how to
install it.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mpsl.errors import UsageError
from mpsl.registry import Registry

Samples: TypeAlias = npt.NDArray[np.float32]
Labels: TypeAlias = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples N×C×H×W in [0, 1] with their labels, for training and for testing."""

    x: Samples
    y: Labels
    x_test: Samples
    y_test: Labels

    def __post_init__(self) -> None:
        for samples, labels in ((self.x, self.y), (self.x_test, self.y_test)):
            if samples.dtype != np.float32 or labels.dtype != np.int64 or labels.shape != samples.shape[:1]:
                raise ValueError(f"not a data set: {samples.dtype}{samples.shape}, {labels.dtype}{labels.shape}")


datasets: Registry[Callable[[int], Dataset]] = Registry("data set", __name__)


def load(name: str, seed: int, image_size: int | None = None) -> Dataset:
    """Load a data set and, if `image_size` is given, pad its images with zeros to image_size × image_size.

    Raises UsageError for an unknown name, one that is not installed, and images larger than `image_size`.
    """
    dataset = datasets.get(name)(seed)
    if image_size is None:
        return dataset
    size = dataset.x.shape[-1]
    if image_size < size:
        raise UsageError(
            f"data set {name}: its images are {size}×{size} and can only be padded, not cut to {image_size}"
        )
    before = (image_size - size) // 2
    border = (before, image_size - size - before)
    widths = ((0, 0), (0, 0), border, border)
    return dataclasses.replace(dataset, x=np.pad(dataset.x, widths), x_test=np.pad(dataset.x_test, widths))
