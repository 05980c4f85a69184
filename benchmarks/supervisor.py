"""Keeps processes of this machine running, as systemd does: a process that ends with an error is started again.

`mpsl bench chaos` uses it. The descendants of a service end with it, and all services end with the block.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from broker.engines import tether
from mpsl.errors import RunFailed
from orchestrator.processes import last_line

RESTART_S = 1.0
"""Pause before a process is started again (systemd: RestartSec)."""
STOP_S = 15.0
"""How long a process may take to end after SIGTERM."""
_CODE = "import sys; from broker.command import main; sys.argv[0] = 'mpsl'; main()"


@dataclass
class Service:
    """One command of `mpsl` that runs until it succeeds or is told to stop."""

    name: str
    role: str
    arguments: Sequence[str]
    prefix: Sequence[str]
    """What precedes the command: where it runs."""
    environment: Mapping[str, str]
    log: Path
    pid: int = 0
    """The id of the present process; 0 between two."""
    spoke: asyncio.Event = field(default_factory=asyncio.Event)
    spoke_at: float = 0.0
    """When the present process wrote its first line, after all imports (monotonic seconds)."""
    succeeded: asyncio.Event = field(default_factory=asyncio.Event)
    own_ends: list[str] = field(default_factory=list)
    """Failures that the benchmark has not caused, each with its last line."""
    _killed: bool = False
    _stopping: bool = False

    async def run(self) -> None:
        """Start the process, and again whenever it has failed."""
        while not self._stopping:
            status, words = await self._once()
            if status == 0:
                self.succeeded.set()
                return
            if not self._killed and not self._stopping:
                self.own_ends.append(f"{self.name} ended with status {status}: {words}")
            self._killed = False
            if not self._stopping:
                await asyncio.sleep(RESTART_S)

    async def _once(self) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self.prefix,
            *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), "", sys.executable, "-c", _CODE),
            *self.arguments,
            env={**os.environ, **self.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid, last = process.pid, b""
        assert process.stdout is not None
        try:
            with self.log.open("ab", buffering=0) as log:
                is_first = True
                async for line in process.stdout:
                    if is_first:
                        self.spoke_at, is_first = time.monotonic(), False
                        self.spoke.set()
                    log.write(line)
                    last = line if line.strip() else last
            status = await process.wait()
        finally:
            self.pid = 0
            if process.returncode is None:
                process.kill()
                await process.wait()
        return status, last_line(last)

    def signal(self, number: int) -> list[int]:
        """Send a signal to the process and its descendants, and return them. SIGKILL and SIGSTOP spare nobody."""
        pids = [self.pid, *descendants(self.pid)] if self.pid else []
        self._killed = self._killed or (number == signal.SIGKILL and bool(pids))
        signal_all(pids, number)
        return pids

    def terminate(self) -> None:
        """Ask the process to end, and do not start it again."""
        self._stopping = True
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)


class Supervisor:
    """All services of a block."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self.services: dict[str, Service] = {}
        self._logs = logs
        self._environment = environment
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, role: str, arguments: Sequence[str], prefix: Sequence[str] = ()) -> Service:
        """Start `mpsl ARGUMENTS` under this name, preceded by `prefix`."""
        service = Service(name, role, arguments, prefix, self._environment, self._logs / f"{name}.log")
        self.services[name] = service
        self._tasks[name] = asyncio.create_task(service.run(), name=name)
        return service

    async def stop(self, names: Sequence[str]) -> None:
        """Ask services to end. Raises RunFailed that names those that do not."""
        for name in names:
            self.services[name].terminate()
        _, late = await asyncio.wait([self._tasks[name] for name in names], timeout=STOP_S)
        if late:
            names = sorted(task.get_name() for task in late)
            raise RunFailed(f"{', '.join(names)}: did not end within {STOP_S:g} s of SIGTERM")

    async def end(self) -> None:
        """Kill everything that still runs."""
        for service in self.services.values():
            service.signal(signal.SIGKILL)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def own_ends(self) -> list[str]:
        """Return all failures that the benchmark has not caused."""
        return [end for service in self.services.values() for end in service.own_ends]


@contextlib.asynccontextmanager
async def supervising(logs: Path, environment: Mapping[str, str]) -> AsyncIterator[Supervisor]:
    """A block at whose end every service has ended; each writes to its own file in `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    supervisor = Supervisor(logs, environment)
    try:
        yield supervisor
    finally:
        await asyncio.shield(supervisor.end())


def signal_all(pids: Sequence[int], number: int) -> None:
    """Send a signal to processes, some of which may have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="utf-8").split():
                found += [int(child), *descendants(int(child))]
    return found


def marked(name: str, value: str) -> list[int]:
    """Return the other processes that have `name`=`value` in their environment."""
    wanted, found = f"{name}={value}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found
