"""Writes the files of a run: a file completely or not at all, and a line completely or not at all."""

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from mpsl import PROTOCOL, VERSION, facts, strict_json
from mpsl.errors import DiskError
from mpsl.job import Job, ModelSection
from mpsl.machines.unfinished import CommittedRound, Manifest
from mpsl.whole_file import put, write_whole
from orchestrator.run_folder import MANIFEST


def now() -> str:
    """Return the time for records: UTC, to the millisecond, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def circumstances(job: Job) -> dict[str, Any]:
    """Return the origin of a run for its summary: the job and its seed, the software versions, the start."""
    versions = {"mpsl": VERSION, "protocol": PROTOCOL, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "numpy": numpy.__version__}
    return {"seed": job.run.seed, "versions": versions, "started": now(), "job": facts.plain(job)}


class Records:
    """The folder of the run `run`. Lines that are written during the run have a time."""

    def __init__(self, out: Path, run: str = "") -> None:
        self._out = out
        self._run = run
        out.mkdir(parents=True, exist_ok=True)
        for torn in out.glob(".*.new"):
            # A process that was killed while it wrote has left it.
            with contextlib.suppress(OSError):
                torn.unlink(missing_ok=True)

    def save_model(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        section: ModelSection,
        round: int,
        commit: CommittedRound | None = None,
    ) -> None:
        """Write the unsplit model after `round` (0: before the first), under its own parameter and buffer names.

        The header says which model it is, so the file alone is enough to load it. Raises DiskError if it cannot be
        written.
        """
        metadata = {
            "format": "pt",
            "model": section.name,
            "args": strict_json.dumps(section.args),
            "run": self._run,
            "round": str(round),
            "time": now(),
            "mpsl": VERSION,
        }
        if commit is not None:
            metadata["commit"] = strict_json.dumps(facts.plain(commit))
        beside = self._out / f".{name}.new"
        try:
            save_file(_apart(tensors), beside, metadata)
            put(beside, self._out / name)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise DiskError(f"{self._out / name} cannot be written; the committed model stays: {error}") from None

    def save_manifest(self, manifest: Manifest) -> None:
        """Write manifest.json, from which another orchestrator can go on with the run."""
        self._write(MANIFEST, strict_json.dumps(facts.plain(manifest)) + "\n")

    def save_plan(self, plan: Mapping[str, Any]) -> None:
        """Write plan.json: the plan as on its topic, with the predictions and links it was made from."""
        self._write("plan.json", strict_json.dumps(plan, indent=2) + "\n")

    def save_summary(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write summary.json: the summary, and when the run ended. Returns what is written."""
        written = {**summary, "ended": now()}
        self._write("summary.json", strict_json.dumps(written, indent=2) + "\n")
        return written

    def append_round(self, metrics: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl, on disk when this returns, or none. Raises DiskError that names the file."""
        self._append("metrics.jsonl", [metrics])

    def append_devices(self, devices: Sequence[Mapping[str, Any]]) -> None:
        """Append a line to devices.jsonl for each device of a round, all or none. Raises DiskError as above."""
        self._append("devices.jsonl", devices)

    def _append(self, name: str, entries: Sequence[Mapping[str, Any]]) -> None:
        said = {"run": self._run, "time": now()}
        text = "".join(f"{strict_json.dumps({**said, **entry})}\n" for entry in entries)
        path = self._out / name
        try:
            with path.open("ab", buffering=0) as file:
                before = file.tell()
                try:
                    _write_all(file, text.encode())
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(before)  # half a line would also corrupt the next one
                    raise
        except OSError as error:
            raise DiskError(f"{path}: cannot be written: {error}") from None

    def _write(self, name: str, text: str) -> None:
        write_whole(self._out / name, text)


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, each with memory of its own: a weight that has two names is written under both."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        place = tensor.data_ptr()
        found[name] = tensor.clone() if place and place in seen else tensor.contiguous()
        seen.add(place)
    return found


def _write_all(file: FileIO, data: bytes) -> None:
    """Write all of `data`. A nearly full disk first accepts a part, and reports the error only at the next call."""
    while data:
        data = data[file.write(data) :]
