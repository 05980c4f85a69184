"""Reads the records of a run in its `--out` folder: metrics.jsonl, devices.jsonl and summary.json.

It must never change anything there. It ignores unknown keys, so that it can read records of a newer version. Known keys
are checked, and an error names the file and the line.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mpsl.errors import UsageError
from mpsl.text_file import read_json

METRICS, DEVICES, SUMMARY = "metrics.jsonl", "devices.jsonl", "summary.json"
MAX_LINE_BYTES = 64 * 1024 * 1024
"""Maximum length of a line. A run never writes a longer one."""
MAX_ROUND = 10**9


@dataclass(frozen=True)
class RoundRecord:
    """A line of metrics.jsonl. A figure is None if there is no test data, or if an older version did not write it."""

    round: int
    loss: float | None
    seconds: float
    accuracy: float | None = None
    test_loss: float | None = None
    predicted_s: float | None = None
    run: str = ""

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class DeviceRecord:
    """A line of devices.jsonl. A figure is None if it does not apply, or if an older version did not write it."""

    round: int
    device: str
    contributed: bool
    loss: float | None = None
    accuracy: float | None = None
    test_loss: float | None = None
    samples: int | None = None
    seconds: float | None = None
    tries: int | None = None
    admitted_s: float | None = None
    complete_s: float | None = None
    accepted_s: float | None = None
    left_out_s: float | None = None
    left_out: str | None = None
    run: str = ""

    def __post_init__(self) -> None:
        _check(self)

    @property
    def ended_s(self) -> float | None:
        """When it was accepted or left out."""
        return self.left_out_s if self.left_out is not None else self.accepted_s

    @property
    def needed_s(self) -> float | None:
        """Seconds from its admission until its update was complete or it was left out; None if it never began.

        In a deterministic run, it does not include the wait for its turn.
        """
        end = self.ended_s if self.complete_s is None else self.complete_s
        return None if self.admitted_s is None or end is None else max(0.0, end - self.admitted_s)


@dataclass(frozen=True)
class RunRecords:
    """The records of one run, with at least one round."""

    run: str
    state: str
    """`done`, `failed`, or "" if the run has not written a summary (yet)."""
    reason: str
    rounds: tuple[RoundRecord, ...]
    """In order, each once."""
    devices: tuple[DeviceRecord, ...]
    """By round; empty if the run's version recorded none."""

    def of_round(self, number: int) -> list[DeviceRecord]:
        """The devices of a round."""
        return [record for record in self.devices if record.round == number]


Record = TypeVar("Record", RoundRecord, DeviceRecord)


def read_records(folder: Path) -> RunRecords:
    """Read the records in a folder. Raises UsageError if there is nothing to draw, or a line is not a record."""
    try:
        is_folder, is_there = folder.is_dir(), folder.exists()
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from None
    if not is_folder:
        why = "is not a folder" if is_there else "no such folder"
        raise UsageError(f"{folder}: {why}; give the --out folder of a run")
    summary = _summary(folder / SUMMARY)
    state, reason = str(summary.get("state", "")), str(summary.get("reason", ""))
    rounds = {record.round: record for record in _lines(folder / METRICS, RoundRecord)}
    if not rounds:
        ended = f"; the run {state}: {reason}" if reason else ""
        raise UsageError(f"{folder}: no round is recorded there ({METRICS} is missing or empty){ended}")
    devices = {(record.round, record.device): record for record in _lines(folder / DEVICES, DeviceRecord)}
    names = {round.run for round in rounds.values()} | {device.run for device in devices.values()}
    if len(names) > 1:
        raise UsageError(
            f"{folder}: {METRICS} and {DEVICES} hold more than one run ({', '.join(sorted(names))}); "
            "keep the lines of one of them"
        )
    return RunRecords(
        run=str(summary.get("run") or names.pop()),
        state=state,
        reason=reason,
        rounds=tuple(rounds[number] for number in sorted(rounds)),
        devices=tuple(devices[key] for key in sorted(devices, key=lambda key: key[0])),
    )


def _summary(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    summary = read_json(path)
    if not isinstance(summary, dict):
        raise UsageError(f"{path}: is not the summary of a run, but {type(summary).__name__}")
    return summary


def _lines(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Read the records of a file, one per line; none if it is missing."""
    decode: Callable[[bytes], Record] = msgspec.json.Decoder(kind).decode
    number = 0
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if not line.endswith(b"\n"):
                    raise UsageError(
                        f"{path}: line {number} is cut off: if the run is still writing, try again; "
                        "otherwise its process or disk failed, and the line may be removed"
                    )
                yield decode(line)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: line {number}: is not a record of a run: {error}") from None


def _check(record: RoundRecord | DeviceRecord) -> None:
    """Raise ValueError for an impossible figure."""
    if not 1 <= record.round <= MAX_ROUND:
        raise ValueError(f"round = {record.round} must lie within 1 and {MAX_ROUND}")
    for name, value in vars(record).items():
        if isinstance(value, float) and not (isfinite(value) and value >= 0):
            raise ValueError(f"{name} = {value:g} must be a number of at least 0")
    if record.accuracy is not None and record.accuracy > 1:
        raise ValueError(f"accuracy = {record.accuracy:g} must lie within 0 and 1")
