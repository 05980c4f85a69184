"""Splits samples over devices, evenly or with skewed labels. Every sample is used exactly once.

The generator is passed in, so that a seed fixes the split. Only indices and labels are seen here, never samples.
"""

import numpy as np
import numpy.typing as npt

from mpsl.errors import UsageError

Indices = npt.NDArray[np.int64]


def iid(samples: int, devices: int, generator: np.random.Generator, minimum: int = 2) -> list[Indices]:
    """Shuffle `samples` indices and give each device the same number, up to one.

    Raises UsageError when a device would get fewer than `minimum`.
    """
    _check(samples, devices, minimum)
    return np.array_split(generator.permutation(samples), devices)


def dirichlet(
    labels: npt.NDArray[np.int64], devices: int, alpha: float, generator: np.random.Generator, minimum: int = 2
) -> list[Indices]:
    """Give each device a share of every label, drawn from a Dirichlet distribution.

    The smaller alpha, the more uneven the shares (0.1: a few labels a device; 100: nearly even).

    A device with fewer than `minimum` samples takes the missing ones from the device with the most. Raises UsageError
    when there are too few samples for that, or alpha is not a finite number of at least 0.001.
    """
    _check(len(labels), devices, minimum)
    if not 0.001 <= alpha < float("inf"):
        raise UsageError(f"alpha = {alpha}, but a Dirichlet distribution needs a finite number of at least 0.001")
    shares: list[list[Indices]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        bounds = np.cumsum(generator.dirichlet(np.full(devices, alpha)))[:-1] * len(members)
        for share, part in zip(shares, np.split(members, np.rint(bounds).astype(np.int64)), strict=True):
            share.append(part)
    split = [generator.permutation(np.concatenate(share)) for share in shares]
    for poor in range(devices):
        while len(split[poor]) < minimum:
            rich = max(range(devices), key=lambda device: len(split[device]))
            split[poor], split[rich] = np.append(split[poor], split[rich][-1]), split[rich][:-1]
    return split


def _check(samples: int, devices: int, minimum: int) -> None:
    if devices < 1:
        raise UsageError(f"{devices} devices: at least 1 is needed")
    if samples < devices * minimum:
        raise UsageError(f"{samples} samples are too few for {devices} devices with at least {minimum} each")
