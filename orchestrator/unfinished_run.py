"""Reads the files of an unfinished run, for its next orchestrator.

Each file is complete, because it was written to a temporary file and renamed; only a record may end in half a line. It
must never change the file that holds the committed round.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mpsl import facts, strict_json
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.members import Passage
from mpsl.machines.unfinished import FORMAT, CommittedRound, Manifest, Unfinished, go_on
from mpsl.messages import Update
from mpsl.planning.plan_file import PlannedRun
from mpsl.text_file import read_json
from mpsl.whole_file import write_whole
from orchestrator.run_folder import MANIFEST
from orchestrator.savepoint_file import SavepointFile

MODEL = "model.safetensors"


def unfinished_run(out: Path, job: Job, planned: PlannedRun | None) -> Unfinished | None:
    """Return the run in `out` that can go on, or None.

    Raises UsageError if it belongs to another job, or cannot be read.
    """
    if not (out / MANIFEST).exists():
        return None
    where = f"--out {out}"
    data = read_json(out / MANIFEST)
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT:
        raise UsageError(f"{out / MANIFEST}: format {version}, this version reads {FORMAT}; start again with --restart")
    manifest = facts.read(Manifest, data, str(out / MANIFEST))
    committed, commit = _committed(out / MODEL, manifest.run)
    # A run that was killed before its end reports its last round again, and then ends.
    rounds = _rounds(out, manifest.run, min(committed, job.run.rounds - 1))
    savepoint = SavepointFile(out, manifest.run).read()
    if savepoint is not None and savepoint.round != committed + 1:
        savepoint = None
    found = go_on(Unfinished(manifest, committed, commit, savepoint, tuple(rounds)), job, planned, where)
    _keep_only(out, manifest.run, len(rounds))
    return found


def load_model(path: Path, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Copy a model from disk into `tensors`, by name. Raises UsageError if it is damaged or has other tensors."""
    try:
        with safe_open(path, "pt") as file:
            for name, tensor in tensors:
                tensor.copy_(file.get_tensor(name))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; start again with --restart") from None


def _committed(path: Path, run: str) -> tuple[int, CommittedRound | None]:
    """Return the committed round of the run (0 before the first) and what was written with it."""
    if not path.exists():
        return 0, None
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("run") != run:
            raise UsageError(
                f"{path}: is of run {metadata.get('run')}, {MANIFEST} of {run}; start again with --restart"
            )
        commit = facts.read(CommittedRound, json.loads(metadata["commit"]), f"{path}: commit")
        # These facts are used once the run has begun, so errors must be found now.
        _ = [Update(**said) for said in commit.contributions.values()], [Passage(**p) for p in commit.passages.values()]
        return int(metadata["round"]), commit
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; start again with --restart") from None


def _rounds(out: Path, run: str, last: int) -> list[dict[str, Any]]:
    """Return the metrics of the recorded rounds up to `last`."""
    rounds = [entry for entry in _lines(out / "metrics.jsonl") if entry.get("run") == run]
    rounds = [entry for number, entry in enumerate(rounds, start=1) if entry.get("round") == number <= last]
    return [{key: value for key, value in entry.items() if key not in ("run", "time")} for entry in rounds]


def _keep_only(out: Path, run: str, rounds: int) -> None:
    """Remove lines beyond the first `rounds` rounds, which a kill may have left, from both records."""
    for name in ("metrics.jsonl", "devices.jsonl"):
        entries = [entry for entry in _lines(out / name) if entry.get("run") == run]
        _rewrite(out / name, [entry for entry in entries if entry.get("round", 0) <= rounds])


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a record."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict):
            break
        found.append(entry)
    return found


def _rewrite(path: Path, entries: list[dict[str, Any]]) -> None:
    text = "".join(f"{strict_json.dumps(entry)}\n" for entry in entries)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        write_whole(path, text)
