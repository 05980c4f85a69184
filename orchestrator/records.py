"""The files of a run, each written whole or not at all: write beside, fsync, rename."""

import contextlib
import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mpsl import strict_json
from mpsl.errors import RunFailed


class Records:
    """The directory DIR of a run."""

    def __init__(self, out: Path) -> None:
        self._out = out
        out.mkdir(parents=True, exist_ok=True)

    def save_model(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """The unsplit model under its own parameter and buffer names; raises RunFailed where it cannot be written."""
        beside = self._out / f".{name}.new"
        try:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, beside)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise RunFailed(f"{self._out / name} cannot be written; what was committed stays: {error}") from None
        _put(beside, self._out / name)

    def save_plan(self, plan: Mapping[str, Any]) -> None:
        """plan.json."""
        self._write("plan.json", strict_json.dumps(plan, indent=2) + "\n")

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json."""
        self._write("summary.json", strict_json.dumps(summary, indent=2) + "\n")

    def append_round(self, metrics: Mapping[str, Any]) -> None:
        """One more line of metrics.jsonl, on disk when this returns, or none. Raises RunFailed that names the file."""
        path = self._out / "metrics.jsonl"
        try:
            with path.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    _write_all(file, (strict_json.dumps(metrics) + "\n").encode())
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)  # half a line would spoil the next one, too
                    raise
        except OSError as error:
            raise RunFailed(f"{path}: cannot be written: {error}") from None

    def _write(self, name: str, text: str) -> None:
        write_whole(self._out / name, text)


def _write_all(file: FileIO, data: bytes) -> None:
    """All of `data`: a disk that is nearly full takes a part first and says so only then."""
    while data:
        data = data[file.write(data) :]


def write_whole(path: Path, text: str) -> None:
    """The file has all of `text`, or is as it was. Raises RunFailed that names it."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text)
        _put(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)  # on a full disk it is what fills it
        raise RunFailed(f"{path}: cannot be written: {error}") from None


def _put(beside: Path, path: Path) -> None:
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
