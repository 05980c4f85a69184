"""A disk that fails, under the real performer of a simulated orchestrator: every file that it writes can be torn.

A full disk fails at any of the steps of a write, and the performer sees the error. A process that dies while it writes
leaves what is on disk by then, and nothing runs after that, not even its own cleaning up.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import orchestrator.records
import orchestrator.savepoint_file
from mpsl import whole_file
from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator_jobs import BuildModel, Checkpoint, Finish, LayOut, RecordRound, WriteSavepoint
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice

WRITING_JOBS = (BuildModel, LayOut, Checkpoint, RecordRound, WriteSavepoint, Finish)
STEPS = ("begin", "half", "sync", "rename")
"""Where a write can fail: at its first byte, in its middle, at fsync, and at the rename that makes it valid."""


class Died(BaseException):
    """The process is no more."""


class FailingDisk:
    """A performer whose files cannot be written while `is_full()` says so."""

    def __init__(self, performer: Performer, chance: random.Random, is_full: Callable[[], bool]) -> None:
        self.performer = performer
        self._chance = chance
        self._is_full = is_full

    def perform(self, job: WorkerJob, session: SessionId | None) -> Result:
        """Perform a job; on a full disk its writes fail."""
        if not isinstance(job, WRITING_JOBS) or not self._is_full():
            return self.performer.perform(job, session)
        with failing(self._chance.choice(STEPS), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
            return self.performer.perform(job, session)

    def write(self, source: str, message: Slice, session: SessionId | None) -> None:
        """Store a slice in memory."""
        self.performer.write(source, message, session)

    def die_in(self, job: WorkerJob, session: SessionId | None) -> None:
        """Perform a job up to any of its steps on disk."""
        if isinstance(job, WRITING_JOBS):
            with suppress(Died, Exception), failing(self._chance.choice(STEPS), Died()):
                self.performer.perform(job, session)


class _TornFile:
    """An open file that takes only half of what is written to it."""

    def __init__(self, file: Any, error: BaseException) -> None:
        self._file = file
        self._error = error

    def __enter__(self) -> "_TornFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise self._error


@contextmanager
def failing(step: str, error: BaseException) -> Iterator[None]:
    """Every file that is written meanwhile fails at this step of its write."""

    def fail(*_: object, **__: object) -> None:
        raise error

    def save_half(original: Callable[..., None]) -> Callable[..., None]:
        def save(tensors: Any, path: Path, metadata: Any = None) -> None:
            original(tensors, path, metadata)
            os.truncate(path, path.stat().st_size // 2)
            raise error

        return save

    def append_half(file: Any, data: bytes) -> None:
        file.write(data[: len(data) // 2])
        raise error

    def open_torn(*arguments: Any) -> Any:
        return _TornFile(open(*arguments), error)

    records, savepoints = orchestrator.records, orchestrator.savepoint_file
    patches: dict[str, list[Any]] = {
        "begin": [
            mock.patch.object(records, "save_file", fail),
            mock.patch.object(savepoints, "save_file", fail),
            mock.patch.object(records, "_write_all", fail),
            mock.patch.object(whole_file, "open", fail, create=True),
        ],
        "half": [
            mock.patch.object(records, "save_file", save_half(records.save_file)),
            mock.patch.object(savepoints, "save_file", save_half(savepoints.save_file)),
            mock.patch.object(records, "_write_all", append_half),
            mock.patch.object(whole_file, "open", open_torn, create=True),
        ],
        "sync": [mock.patch.object(os, "fsync", fail)],
        "rename": [mock.patch.object(Path, "replace", fail)],
    }
    for patch in patches[step]:
        patch.start()
    try:
        yield
    finally:
        for patch in patches[step]:
            patch.stop()
