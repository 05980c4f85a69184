"""Runs processes that each measure and print one JSON object. A failure names the process."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypeAlias

from mpsl.errors import MeasurementError
from orchestrator.processes import last_line

Printed: TypeAlias = "asyncio.Task[dict[str, Any]]"
"""The output of a process, as a task with its name. Raises MeasurementError if the process fails."""


@contextlib.asynccontextmanager
async def measuring(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str] | None = None
) -> AsyncIterator[list[Printed]]:
    """Start `python -m COMMAND` under each name, in this order. At the end of the block all have ended."""
    processes: list[asyncio.subprocess.Process] = []
    tasks: list[Printed] = []
    try:
        for name, command in commands.items():
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *command),
                env={**os.environ, **(environment or {})},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            processes.append(process)
            tasks.append(asyncio.create_task(_printed(name, process), name=name))
        yield tasks
    finally:
        for process in processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        # The tasks end because their processes have ended.
        await asyncio.gather(*tasks, return_exceptions=True)


async def results(tasks: Sequence[Printed], seconds: float) -> list[dict[str, Any]]:
    """Return the output of all. Raises MeasurementError as soon as one fails or `seconds` have passed."""
    done, running = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()
    if running:
        names = " and ".join(sorted(task.get_name() for task in running))
        raise MeasurementError(f"{names}: not done after {seconds:g} s")
    return [task.result() for task in tasks]


async def _printed(name: str, process: asyncio.subprocess.Process) -> dict[str, Any]:
    output, words = await process.communicate()
    if process.returncode != 0:
        raise MeasurementError(f"{name} ended with status {process.returncode}: {last_line(words)}")
    try:
        found = json.loads(output)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MeasurementError(f"{name} printed no JSON object, but: {last_line(output)}")
    return found
