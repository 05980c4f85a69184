"""The file of a savepoint: the sums of all parts, under the names of the model's tensors, with its facts in the header.

It is written whole or not at all, beside the committed model, which it must never touch.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mpsl import facts, strict_json
from mpsl.errors import DiskError, RunFailed, UsageError
from mpsl.machines.savepoint import Savepoint
from mpsl.whole_file import put

SAVEPOINT = "savepoint.safetensors"

Named = Mapping[tuple[int, str], NDArray[Any]]
"""Sums by replica and by the name of the model's tensor."""


class SavepointFile:
    """`savepoint.safetensors` in the folder of the run `run`."""

    def __init__(self, out: Path, run: str) -> None:
        self._path = out / SAVEPOINT
        self._run = run

    def write(self, savepoint: Savepoint, sums: Named) -> None:
        """Write a savepoint in the place of the one before. Raises DiskError if it cannot be written."""
        tensors = {f"{replica}/{name}": np.ascontiguousarray(array) for (replica, name), array in sums.items()}
        said = strict_json.dumps(facts.plain(savepoint))
        header = {"run": self._run, "savepoint": said, "digest": _digest(said, tensors)}
        beside = self._path.with_name(f".{SAVEPOINT}.new")
        try:
            save_file(tensors, beside, header)
            put(beside, self._path)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise DiskError(f"{self._path} cannot be written; the one before stays: {error}") from None

    def read_all(self, into: Mapping[str, NDArray[Any]], replica: int) -> None:
        """Read the sums of one replica into these arrays, by name. Raises RunFailed where they are not there."""
        try:
            with safe_open(self._path, "numpy") as file:
                for name, array in into.items():
                    array[...] = file.get_tensor(f"{replica}/{name}").reshape(-1)
        except (OSError, SafetensorError, ValueError) as error:
            raise RunFailed(f"{self._path}: cannot be read: {error}; without this file the round begins anew") from None

    def read(self) -> Savepoint | None:
        """The facts of the savepoint of this run; None where there is none. Raises UsageError where it is damaged."""
        if not self._path.exists():
            return None
        try:
            with safe_open(self._path, "numpy") as file:
                header: dict[str, str] = file.metadata() or {}
                if header.get("run") != self._run:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            if _digest(header["savepoint"], tensors) != header["digest"]:
                raise ValueError("its content is not what was written")
            found = facts.read(Savepoint, json.loads(header["savepoint"]), "savepoint")
            _ = found.contributions, [found.passage(id) for id in found.accepted]
            return found
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, UsageError) as error:
            raise UsageError(
                f"{self._path}: cannot be read: {error}; remove it, and the round that it is of begins anew"
            ) from None

    def remove(self) -> None:
        """The round that it is of is durable."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _digest(said: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.blake2b(said.encode(), digest_size=16)
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensors[name]).data.cast("B"))
    return found.hexdigest()
