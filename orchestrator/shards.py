"""Writes shards: one .npz file per device with x and y, and the device's share of the held-out x_test and y_test.

The file's stem is the device's id. A file is written completely or not at all. A directory never mixes two splits.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mpsl.errors import UsageError
from orchestrator.datasets import Dataset
from orchestrator.partition import dirichlet, iid


def split(dataset: Dataset, devices: int, seed: int, non_iid: float | None = None) -> dict[str, Dataset]:
    """Return the shard of each device (`dev-1`, ...): even, or with the training labels skewed by `non_iid`.

    The held-out data is split evenly. Raises UsageError if there are too few samples.
    """
    generator = np.random.default_rng(seed)
    if non_iid is None:
        train = iid(len(dataset.y), devices, generator)
    else:
        train = dirichlet(dataset.y, devices, non_iid, generator)
    test = iid(len(dataset.y_test), devices, generator, minimum=0)
    return {
        f"dev-{number}": Dataset(dataset.x[mine], dataset.y[mine], dataset.x_test[held], dataset.y_test[held])
        for number, (mine, held) in enumerate(zip(train, test, strict=True), start=1)
    }


def write(shards: Mapping[str, Dataset], directory: Path) -> None:
    """Write DIRECTORY/<id>.npz for every shard, replacing earlier ones.

    Raises UsageError if it holds other shards (a run would take them for devices) or cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in directory.glob("*.npz") if path.stem not in shards)
        if foreign:
            raise UsageError(f"{directory} already holds {', '.join(foreign)}; remove them or choose another directory")
        for name, shard in shards.items():
            _write_whole(directory / f"{name}.npz", shard)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error.strerror}") from None


def _write_whole(path: Path, shard: Dataset) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, x=shard.x, y=shard.y, x_test=shard.x_test, y_test=shard.y_test)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
