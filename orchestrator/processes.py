"""Starts the other roles as processes of this machine and always ends them. `mpsl local` runs them only this way.

Every child ends with its parent and is stopped with a deadline. Its stderr is read, so that a failure can be explained.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from broker.engines import tether
from mpsl.errors import RunFailed

Outcome = TypeVar("Outcome")

STOP_S = 5.0
EXPLANATION_S = 5.0
"""How long the others have to report the end of a child, which they learn from its last will if it was connected."""
TAIL_BYTES = 4000


@dataclass
class Child:
    """A started process and the end of its stderr."""

    name: str
    process: asyncio.subprocess.Process
    tail: bytearray = field(default_factory=bytearray)
    reading: "asyncio.Task[None] | None" = None

    async def read(self, log: Path | None) -> None:
        """Keep the end of stderr, and write all of it to the file `log`, if it is given and the disk has room.

        Stderr is always read, because a process whose stderr nobody reads would block.
        """
        stream = self.process.stderr
        assert stream is not None
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(log.open("wb", buffering=0)) if log else None
            while data := await stream.read(65536):
                self.tail = (self.tail + data)[-TAIL_BYTES:]
                if file is not None:
                    with contextlib.suppress(OSError):
                        file.write(data)

    def last_words(self) -> str:
        """Return the last line of stderr that is not empty."""
        return last_line(self.tail)


def last_line(output: bytes | bytearray) -> str:
    """Return the last line of a process's output that is not empty."""
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "(it said nothing)"


class Children:
    """All children of one block."""

    def __init__(self, logs: Path | None) -> None:
        self._logs = logs
        self.all: list[Child] = []

    async def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start `mpsl ARGUMENTS` as process `name`."""
        code = "import sys; from broker.command import main; sys.argv[0] = 'mpsl'; main()"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), ""),
            *(sys.executable, "-c", code, *arguments),
            env={**os.environ, **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        child = Child(name, process)
        child.reading = asyncio.create_task(
            child.read(self._logs / f"{name}.log" if self._logs else None), name=f"{name}-stderr"
        )
        self.all.append(child)
        return child

    async def first_failure(self) -> str:
        """Wait until a child ends with an error. Returns its name and the reason."""
        waiting = {asyncio.create_task(child.process.wait(), name=child.name): child for child in self.all}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    child = waiting.pop(task)
                    if task.result() != 0:
                        if child.reading is not None:
                            await asyncio.wait([child.reading], timeout=1.0)
                        return f"{child.name} ended with status {task.result()}: {child.last_words()}"
            await asyncio.get_running_loop().create_future()
            raise AssertionError("nothing sets this future")
        finally:
            for task in waiting:
                task.cancel()

    async def attend(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        """Return the result of `work`. Raises RunFailed if a child fails and `work` does not end soon after."""
        working = asyncio.create_task(work, name="work")
        failing = asyncio.create_task(self.first_failure(), name="children")
        try:
            await asyncio.wait([working, failing], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await asyncio.wait([working], timeout=EXPLANATION_S)
            if not working.done():
                raise RunFailed(failing.result())
            return working.result()
        finally:
            for task in (working, failing):
                task.cancel()
            await asyncio.gather(working, failing, return_exceptions=True)

    async def stop(self) -> None:
        """Send SIGTERM to the running children, and SIGKILL after a deadline."""
        for child in self.all:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
        waits = [asyncio.create_task(child.process.wait()) for child in self.all]
        if waits:
            await asyncio.wait(waits, timeout=STOP_S)
        for child in self.all:
            if child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
                await child.process.wait()
            if child.reading is not None:
                await asyncio.wait([child.reading], timeout=1.0)
                child.reading.cancel()


@contextlib.asynccontextmanager
async def children(logs: Path | None = None) -> AsyncIterator[Children]:
    """A block at whose end all children have ended; `logs`: a directory for their stderr."""
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
    group = Children(logs)
    try:
        yield group
    finally:
        await asyncio.shield(group.stop())
