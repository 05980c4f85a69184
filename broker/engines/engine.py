"""Starts a broker as a separate process, and makes sure that it ends.

A broker is ready once it has answered an MQTT CONNECT. Its process ends with the `async with` block, and also when the
process that opened the block is killed.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from broker.address import BrokerAddress
from broker.connection import Refused, connect
from broker.engines import embedded, mosquitto, tether
from broker.engines.launch import Launch, reserve
from mpsl.errors import BrokerError, UsageError

Engine = Literal["mosquitto", "embedded"]
ENGINES = ("auto", "mosquitto", "embedded")

START_SECONDS = 20.0
STOP_SECONDS = 5.0
PROBE_SECONDS = 2.0
_PROBE_PAUSE_SECONDS = 0.02
_TAIL_CHARACTERS = 2000
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""Makes glibc keep this many bytes of freed packets for the next ones. By default it returns each block of half a
megabyte to the system, which clears it before its next use; that is two fifths of the broker's cost per byte.
"""

INSTALL = "install mosquitto (`apt-get install mosquitto`) or the embedded broker (`pip install 'iotcore>=0.4,<0.5'`)"


@dataclass(frozen=True)
class BrokerProcess:
    """A broker that accepts connections at `url`; valid inside its `async with` block."""

    host: str
    port: int
    url: str
    pid: int
    engine: Engine
    _child: "_EngineProcess" = field(repr=False)

    async def died(self) -> str:
        """Return why, once the process has ended by itself."""
        return await self._child.ended()


def choose(engine: str) -> Engine:
    """Return the engine for `auto`, `mosquitto` or `embedded`. Raises UsageError if it is not installed."""
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}; known: {', '.join(sorted(ENGINES))}")
    if engine != "embedded" and mosquitto.program():
        return "mosquitto"
    if engine == "mosquitto":
        raise UsageError("engine 'mosquitto': not found on the PATH nor in /usr/sbin; `apt-get install mosquitto`")
    if embedded.installed():
        return "embedded"
    raise UsageError(f"engine {engine!r}: no broker is installed here; {INSTALL}")


@contextlib.asynccontextmanager
async def running_broker(
    engine: str = "auto",
    *,
    host: str | None = None,
    port: int | None = None,
    conf: Path | None = None,
    protocol: embedded.Protocol = "5",
    log: bool = False,
    tls: embedded.TlsFiles | None = None,
) -> AsyncIterator[BrokerProcess]:
    """Run a broker on `host`:`port` during the block.

    `host` None is loopback, and `port` None or 0 is a free one. With `conf`, a mosquitto.conf, None keeps the address
    of its first listener. `protocol` only matters to the embedded engine, because mosquitto always speaks both. `log`
    passes the broker's output on to stderr. With `tls` the embedded engine encrypts; mosquitto's `conf` says how it
    does. Raises UsageError for impossible arguments, and BrokerError if the port is
    taken, or if the broker ends or does not answer within START_SECONDS.
    """
    chosen = choose("mosquitto" if conf is not None and engine == "auto" else engine)
    if conf is not None and chosen != "mosquitto":
        raise UsageError(f"{conf}: a mosquitto configuration needs the engine mosquitto, not {chosen}")
    configuration = mosquitto.Configuration.default() if conf is None else mosquitto.Configuration.read(conf)
    host = configuration.host if host is None else host
    if port is None:
        port = 0 if conf is None else configuration.port
    with contextlib.closing(reserve(host, port)) as reservation:
        address, port = reservation.getsockname()[:2]
        if chosen == "embedded":
            launch = embedded.launch(address, port, protocol, tls)
        else:
            launch = mosquitto.launch(mosquitto.program() or "", configuration, host, port)
        async with _running(launch, log) as child:
            reachable = _reachable(host)
            await _until_ready(child, launch, reachable, port, protocol)
            scheme = "mqtt" if launch.answers_connect else "mqtts"
            url = f"{scheme}://{f'[{reachable}]' if ':' in reachable else reachable}:{port}"
            yield BrokerProcess(reachable, port, url, child.process.pid, chosen, child)


class _EngineProcess:
    """A started process and the end of its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.tail = ""

    async def read(self) -> None:
        """Read stderr and keep its end, so that the pipe never fills up and a failure can be explained."""
        stream = self.process.stderr
        while stream is not None and (text := await stream.read(4096)):
            self.tail = (self.tail + text.decode(errors="replace"))[-_TAIL_CHARACTERS:]

    async def ended(self) -> str:
        """Wait until the process ends and return what is known about why."""
        status = await self.process.wait()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        said = self.tail.strip()
        return f"the broker {how}" + (f", saying: {said}" if said else "")


@contextlib.asynccontextmanager
async def _running(launch: Launch, log: bool) -> AsyncIterator[_EngineProcess]:
    # A file without a name, read through /dev/stdin, leaves nothing behind however this process ends.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as configuration:
        os.fchmod(configuration.fileno(), 0o644)  # the broker's user opens it again
        configuration.write(launch.configuration)
        configuration.seek(0)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), launch.user, *launch.command),
            stdin=configuration,
            stdout=None if log else asyncio.subprocess.DEVNULL,
            stderr=None if log else asyncio.subprocess.PIPE,
            env=_KEEP_MEMORY | os.environ,
            start_new_session=True,  # Ctrl-C is for this process, which ends the broker after its clients' disconnects
        )
    child = _EngineProcess(process)
    reading = asyncio.create_task(child.read(), name="broker-stderr")
    try:
        yield child
    finally:
        await _stop(process)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_ready(
    child: _EngineProcess, launch: Launch, host: str, port: int, protocol: embedded.Protocol
) -> None:
    """Return once the broker answers. Raises BrokerError at the deadline, or as soon as the process has ended."""
    ended = asyncio.create_task(child.ended(), name="broker-ended")
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    try:
        while not ended.done():
            if await _answers(launch, host, port, protocol):
                return
            if asyncio.get_running_loop().time() > deadline:
                raise BrokerError(f"the broker does not answer on {host}:{port} after {START_SECONDS:.0f} s")
            await asyncio.wait([ended], timeout=_PROBE_PAUSE_SECONDS)
        raise BrokerError(f"cannot start a broker on {host}:{port}: {ended.result()}")
    finally:
        ended.cancel()


async def _answers(launch: Launch, host: str, port: int, protocol: embedded.Protocol) -> bool:
    if not launch.answers_connect:
        return await _accepts(host, port)
    address = BrokerAddress(host, port, version=protocol)
    try:
        async with connect(address, f"mpsl-probe-{uuid.uuid4().hex[:8]}", patience_s=PROBE_SECONDS):
            return True
    except Refused:
        return True  # so a broker listens there
    except BrokerError:
        return False


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


def _reachable(host: str) -> str:
    """Return the address for clients on this machine of a broker that listens on `host`."""
    return {mosquitto.ALL_INTERFACES: "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
