"""The brokers that we start: they come up, go away surely, obey their configuration, and do what we ask of MQTT."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiomqtt
import psutil
import pytest
from aiomqtt.exceptions import MqttConnectError
from brokers import ROOT, SecureBroker, secured, serving
from click.testing import CliRunner
from driving import PATIENCE_S
from mqtt_clients import ENGINES, client, receive, round_trip

from broker.engines import engine, mosquitto
from broker.engines.command import broker as command
from broker.engines.engine import BrokerProcess, choose, running_broker
from broker.engines.mosquitto import Configuration
from mpsl.errors import BrokerError, UsageError

COMMAND = [sys.executable, "-c", "from broker.engines.command import broker; broker()"]


def accepts(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        return probe.connect_ex((host, port)) == 0


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Poll what only the operating system can tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("name", ENGINES)
def test_a_broker_is_a_process_of_its_own_that_ends_with_the_block(name: str) -> None:
    async def run() -> BrokerProcess:
        async with running_broker(name) as process:
            assert process.pid != os.getpid()
            assert psutil.pid_exists(process.pid)
            assert accepts(process.host, process.port)
            assert process.url == f"mqtt://127.0.0.1:{process.port}"
        return process

    ended = asyncio.run(run())
    assert not psutil.pid_exists(ended.pid)
    assert not accepts(ended.host, ended.port)


def test_a_broker_that_ignores_the_polite_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "STOP_SECONDS", 0.2)

    async def run() -> int:
        async with running_broker("mosquitto") as process:
            os.kill(process.pid, signal.SIGSTOP)  # a stopped process does not act on SIGTERM
        return process.pid

    assert not psutil.pid_exists(asyncio.run(run()))


@pytest.mark.parametrize("name", ENGINES)
def test_a_taken_port_is_said_at_once(name: str) -> None:
    async def run(port: int) -> None:
        async with running_broker(name, port=port):
            pass

    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"127\.0\.0\.1:{port}: Address already in use"):
            asyncio.run(run(port))


def test_two_brokers_that_ask_for_free_ports_never_get_the_same() -> None:
    async def run() -> None:
        async with running_broker("mosquitto") as first, running_broker("mosquitto") as second:
            assert first.port != second.port

    asyncio.run(run())


def test_the_death_of_a_broker_is_told() -> None:
    async def run() -> str:
        async with running_broker("mosquitto") as process:
            os.kill(process.pid, signal.SIGKILL)
            return await process.died()

    assert "was ended by signal 9" in asyncio.run(run())


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    conf = tmp_path / "mosquitto.conf"
    conf.write_text("listener 1883 127.0.0.1\nno_such_setting true\n")

    async def run() -> None:
        async with running_broker("mosquitto", conf=conf, port=0):
            pass

    with pytest.raises(BrokerError, match="no_such_setting"):
        asyncio.run(run())


@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_parent_leaves_no_broker(name: str) -> None:
    arguments = ["--engine", name, "--port", "0", "--json"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        child = psutil.Process(json.loads(parent.stdout.readline())["pid"])
        parent.kill()
    assert until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(number: int) -> None:
    arguments = ["--port", "0"]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        assert line.startswith("mosquitto listens on mqtt://127.0.0.1:")
        host, port = line.strip().rpartition("/")[2].split(":")
        assert accepts(host, int(port))
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 0
        assert not accepts(host, int(port))


def test_the_command_fails_when_its_broker_dies() -> None:
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        assert b"the broker was ended by signal 9" in errors


def test_the_command_tells_wrong_use_from_failure(tmp_path: Path) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = CliRunner().invoke(command, ["--port", str(taken.getsockname()[1])])
    assert result.exit_code == 1
    assert "Address already in use" in result.output
    missing = CliRunner().invoke(command, ["--conf", str(tmp_path / "none.conf")])
    assert missing.exit_code == 2
    assert "none.conf" in missing.output
    mixed = CliRunner().invoke(command, ["--engine", "embedded", "--conf", str(ROOT / "mosquitto.conf")])
    assert mixed.exit_code == 2


def test_the_command_warns_before_it_serves_everyone_without_a_password() -> None:
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        with subprocess.Popen(
            [*COMMAND, "--host", host, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert b"listens on mqtt://" in process.stdout.readline()
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE_S)
        assert (b"anyone" in errors) is warned


def test_auto_prefers_mosquitto_then_the_embedded_broker_then_explains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto") == "mosquitto"
    monkeypatch.setattr(mosquitto, "program", lambda: None)
    assert choose("auto") == "embedded"
    with pytest.raises(UsageError, match="apt-get install mosquitto"):
        choose("mosquitto")
    monkeypatch.setattr(engine.embedded, "installed", lambda: False)
    with pytest.raises(UsageError, match=r"apt-get install mosquitto.*pip install"):
        choose("auto")
    with pytest.raises(UsageError, match="unknown engine"):
        choose("hivemq")


def test_mosquitto_is_found_where_debian_puts_it_when_the_path_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert mosquitto.program() == "/usr/sbin/mosquitto"


def settings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith(("#", "user"))]


@pytest.mark.parametrize(
    ("given", "derived"),
    [
        (["listener 1883 127.0.0.1", "allow_anonymous true"], ["listener 9 ::1", "allow_anonymous true"]),
        (["listener 1883", "listener 1884", "x 1"], ["listener 9 ::1", "listener 1884", "x 1"]),
        (["# listener 1", "listener 0 /run/m.sock", "listener 2"], ["listener 0 /run/m.sock", "listener 9 ::1"]),
        (["certfile a", "port 1884", "bind_address ::1"], ["listener 9 ::1", "certfile a"]),
        (["port 1884", "listener 1885"], ["listener 9 ::1", "listener 1885"]),
        (["x 1"], ["listener 9 ::1", "allow_anonymous true", "x 1"]),
        (["allow_anonymous false"], ["listener 9 ::1", "allow_anonymous false"]),
    ],
)
def test_host_and_port_move_the_first_listener_and_nothing_else(given: list[str], derived: list[str]) -> None:
    assert settings(Configuration(tuple(given)).listening("::1", 9)) == derived


@pytest.mark.parametrize(
    ("lines", "host", "port", "encrypted"),
    [
        (["listener 1884 10.0.0.1"], "10.0.0.1", 1884, False),
        (["listener 8883", "certfile a", "listener 1"], "", 8883, True),
        (["listener 1883", "listener 8883", "certfile a"], "", 1883, False),
        (["port 1885"], "", 1885, False),
        (["port 1885", "bind_address ::1", "listener 1", "certfile a"], "::1", 1885, False),
        ([], "127.0.0.1", 1883, False),
    ],
)
def test_the_first_listener_is_read_as_mosquitto_does(lines: list[str], host: str, port: int, encrypted: bool) -> None:
    configuration = Configuration(tuple(lines))
    assert (configuration.host, configuration.port, configuration.encrypted) == (host, port, encrypted)


def test_the_file_at_the_root_says_what_we_run_without_a_file() -> None:
    assert settings((ROOT / "mosquitto.conf").read_text()) == list(Configuration.default().lines)


def test_the_file_at_the_root_runs_and_is_anonymous_on_loopback_alone() -> None:
    conf = ROOT / "mosquitto.conf"
    configuration = Configuration.read(conf)
    assert (configuration.host, configuration.port) == ("127.0.0.1", 1883)
    with serving("auto", conf=conf, port=0) as process:
        asyncio.run(round_trip(process))


def test_relative_paths_in_the_file_keep_their_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("passwords").write_text("")
    tmp_path.joinpath("mosquitto.conf").write_text(
        "listener 1\nallow_anonymous true\nlog_dest file here.log\nuser root\n"
    )
    monkeypatch.chdir(tmp_path)
    with serving("mosquitto", conf=Path("mosquitto.conf"), host="127.0.0.1", port=0):
        assert tmp_path.joinpath("here.log").exists()


def test_a_password_opens_the_secure_broker_and_nothing_else_does(secure_mosquitto: SecureBroker) -> None:
    process, tls = secure_mosquitto.process, secure_mosquitto.tls
    assert process.url.startswith("mqtts://")

    async def connect(**options: object) -> None:
        async with client(process, "secure", timeout=2, **options):
            pass

    asyncio.run(connect(username="dev-1", password=secure_mosquitto.passwords["dev-1"], tls_context=tls))
    for wrong in ({}, {"username": "dev-1", "password": "wrong"}, {"username": "eve", "password": ""}):
        with pytest.raises(MqttConnectError, match="Not authorized"):
            asyncio.run(connect(tls_context=tls, **wrong))
    with pytest.raises(aiomqtt.MqttError):
        asyncio.run(connect(username="dev-1", password=secure_mosquitto.passwords["dev-1"]))


def test_the_access_rules_bind_a_writer_to_its_name(secure_mosquitto: SecureBroker) -> None:
    @asynccontextmanager
    async def connected(name: str, *, subscribe: str = "") -> AsyncIterator[aiomqtt.Client]:
        options = {"username": name, "password": secure_mosquitto.passwords[name], "tls_context": secure_mosquitto.tls}
        async with client(secure_mosquitto.process, f"acl-{name}", **options) as one:
            if subscribe:
                await one.subscribe(subscribe, qos=1)
            yield one

    own = {
        "dev-1": ["dev/dev-1/status", "seat/job-1/1_0/fwd/dev-1", "x/job-1/orch/ctl/dev-1"],
        "node-1": ["node/node-1/tele", "x/job-1/dev-1/bwd/node-1", "seat/job-1/2_0/fwd/node-1"],
        "orch": ["run/job-1/plan", "dev/dev-1/cmd", "x/job-1/dev-1/ctl/orch"],
    }
    foreign = {
        "dev-1": ["dev/dev-2/status", "seat/job-1/1_0/fwd/dev-2", "x/job-1/orch/ctl/node-1", "run/job-1/plan", "else"],
        "node-1": ["dev/dev-1/status", "dev/dev-1/cmd", "run/job-1/state"],
        "watch": ["dev/watch/cmd", "run/job-1/plan"],
    }

    async def writing() -> None:
        async with connected("watch", subscribe="mpsl/v1/main/#") as watch:
            for name in ("watch", "dev-1", "node-1", "orch"):
                async with connected(name) as writer:
                    for topic in (*foreign.get(name, []), *own.get(name, [])):
                        await writer.publish(f"mpsl/v1/main/{topic}", name, qos=1)
            expected = [f"mpsl/v1/main/{topic}" for topics in own.values() for topic in topics]
            assert [str(message.topic) for message in await receive(watch, len(expected))] == expected

    async def reading() -> None:
        async with (
            connected("dev-2", subscribe="mpsl/v1/main/#") as dev,
            connected("node-2", subscribe="mpsl/v1/main/#") as node,
        ):
            async with connected("dev-1") as writer:
                for topic in ("seat/r/1_0/fwd", "x/r/dev-3/fwd", "x/r/node-2/fwd", "x/r/dev-2/fwd"):
                    await writer.publish(f"mpsl/v1/main/{topic}/dev-1", b"", qos=1)
            assert [m.topic.value.split("/")[3:6] for m in await receive(dev, 1)] == [["x", "r", "dev-2"]]
            assert [m.topic.value.split("/")[3:6] for m in await receive(node, 2)] == [
                ["seat", "r", "1_0"],
                ["x", "r", "node-2"],
            ]

    asyncio.run(writing())
    asyncio.run(reading())


def test_the_secured_file_has_no_anonymous_listener() -> None:
    lines = settings(secured(ROOT / "mosquitto.conf"))
    assert [line for line in lines if line.startswith(("listener", "allow_anonymous"))] == [
        "listener 8883",
        "allow_anonymous false",
    ]
