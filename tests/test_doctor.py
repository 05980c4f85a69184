"""`mpsl doctor`: sound set-ups are ok, and each broken one is named, with what helps."""

import asyncio
import contextlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from brokers import serving
from cryptography import x509
from fleets import ServedFleet, mpsl_fleet, served, until_takes

from broker.command import mpsl
from broker.connection import connect
from broker.doctor import machine_checks
from broker.doctor.broker_checks import CHECKS
from broker.doctor.identity_checks import check_identity
from broker.fleet.fleet_folder import FleetFolder, new_key
from mpsl.errors import UsageError
from mpsl.identity.authority import key_pem

pytestmark = pytest.mark.slow

ALL = ["name", "TCP", "TLS", "clock", "certificate", "role", *CHECKS, "disk", "memory", "torch"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    with served(tmp_path_factory.mktemp("doctor") / "fleet") as running:
        yield running


@pytest.fixture
def folder(fleet: ServedFleet, tmp_path: Path) -> Path:
    """A copy of dev-1's folder, which connects to the running broker."""
    shutil.copytree(fleet.client("dev-1"), tmp_path / "dev-1")
    change(tmp_path / "dev-1", "localhost:8883", f"localhost:{fleet.process.port}")
    return tmp_path / "dev-1"


def change(folder: Path, old: str, new: str) -> None:
    """Change the options of a member's folder."""
    text = (folder / "agent.toml").read_text()
    assert old in text
    (folder / "agent.toml").write_text(text.replace(old, new))


def examined(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status, and what was found, by check."""
    capsys.readouterr()
    status = mpsl.main(["doctor", *map(str, arguments), "--json"], "mpsl", standalone_mode=False)
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [each["check"] for each in content["checks"]] == ALL
    assert content["ok"] is (status == 0)
    for each in content["checks"]:
        assert each["status"] != "problem" or (each["text"] and each["cause"] and each["remedy"]), each
    return status, {each["check"]: each for each in content["checks"]}


def problems(found: dict[str, dict[str, str]]) -> dict[str, str]:
    """The whole line of each problem."""
    return {
        name: f"{each['text']} → {each['cause']} → {each['remedy']}"
        for name, each in found.items()
        if each["status"] == "problem"
    }


@pytest.mark.parametrize("id", ["dev-1", "node-1", "orch", "watch"])
def test_a_sound_member_is_ok(fleet: ServedFleet, id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(fleet.client(id), tmp_path / id)
    change(tmp_path / id, "localhost:8883", f"localhost:{fleet.process.port}")
    config = tmp_path / id / "agent.toml"
    config.write_text(config.read_text() + 'data = "shard.npz"\nmemory-budget = "2GiB"\n')
    status, found = examined(capsys, "--config", config, "--deep")
    assert (status, problems(found)) == (0, {})
    skipped = {name for name, each in found.items() if each["status"] == "skipped"}
    assert skipped == ({"retained", "last will", "round trip"} if id == "watch" else set())
    authority = FleetFolder(fleet.folder).authority().certificate
    assert authority.fingerprint in found["certificate"]["text"], "to be compared with what `approve` has shown"


def test_nothing_stays_at_the_broker(fleet: ServedFleet, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examined(capsys, "--config", folder / "agent.toml", "--deep")

    async def retained() -> list[str]:
        async with connect(fleet.address("watch"), "doctor-watch") as connection:
            await connection.subscribe(("mpsl/#",))
            found = []
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    async for arrived in connection.messages():
                        found.append(arrived.topic)
            return found

    assert asyncio.run(retained()) == []


def test_a_broker_without_a_fleet_is_ok_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("mosquitto") as process:
        status, found = examined(capsys, "--broker", process.url)
    assert (status, problems(found)) == (0, {})


def test_people_get_one_line_a_check(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mpsl.main(["doctor", "--config", str(folder / "agent.toml")], "mpsl", standalone_mode=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:22].strip() for line in lines] == ALL
    change(folder, "localhost", "no-such-host.invalid")
    assert mpsl.main(["doctor", "--config", str(folder / "agent.toml")], "mpsl", standalone_mode=False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("problem  name          no-such-host.invalid is unknown → the name")
    assert lines[0].count(" → ") == 2


# Broken set-ups of one member's folder. Each: what breaks it, which check names it, and with which words.


def new_certificate(fleet: ServedFleet, folder: Path, days: float) -> None:
    """A certificate of dev-1 that ends so many days from now, with its key."""
    owner, key = FleetFolder(fleet.folder), new_key()
    member, ends = owner.register().member("dev-1", "device"), time.time() + days * 86400
    pem = owner.authority().for_member(member, key.public_key(), x509.random_serial_number(), ends)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(key_pem(key))


def revoked(fleet: ServedFleet, folder: Path) -> None:
    mpsl_fleet("add", "dev-5", "--role", "device", "--dir", fleet.folder)
    for name in ("cert.pem", "key.pem"):
        shutil.copy(fleet.client("dev-5") / name, folder / name)
    change(folder, 'id = "dev-1"', 'id = "dev-5"')
    mpsl_fleet("revoke", "dev-5", "--dir", fleet.folder)
    files = {name: str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    asyncio.run(until_takes(replace(fleet.address("dev-1"), **files), False))


def nobody_listens(fleet: ServedFleet, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    change(folder, f":{fleet.process.port}", f":{free}")


def of_another_fleet(folder: Path, *names: str) -> None:
    other = folder.parent / "other"
    mpsl_fleet("init", "--dir", other)
    mpsl_fleet("add", "dev-1", "--role", "device", "--dir", other)
    for name in names:
        shutil.copy(other / "clients" / "dev-1" / name, folder / name)


BROKEN: dict[str, tuple[Callable[[ServedFleet, Path], object], str, str]] = {
    "unknown-host": (lambda _, f: change(f, "localhost", "no-such-host.invalid"), "name", "check the host in --broker"),
    "nobody-listens": (nobody_listens, "TCP", "is it running, at this host and port"),
    "another-name": (lambda _, f: change(f, "localhost", "127.1"), "TLS", "the host as in the certificate"),
    "authority-of-another-fleet": (lambda _, f: of_another_fleet(f, "ca.pem"), "TLS", "authority with --ca"),
    "no-authority": (lambda _, f: (f / "ca.pem").unlink(), "TLS", "No such file or directory"),
    "certificate-of-another-fleet": (
        lambda _, f: of_another_fleet(f, "cert.pem", "key.pem"), "certificate", "not signed by this fleet's authority",
    ),
    "key-of-another": (lambda _, f: of_another_fleet(f, "key.pem"), "certificate", "do not match"),
    "no-key": (lambda _, f: (f / "key.pem").unlink(), "certificate", "key.pem: No such file or directory"),
    "damaged-key": (lambda _, f: (f / "key.pem").write_bytes(b"x"), "certificate", "holds no private key"),
    "no-certificate": (lambda _, f: (f / "cert.pem").unlink(), "certificate", "cannot be read: No such file"),
    "damaged-certificate": (lambda _, f: (f / "cert.pem").write_bytes(b"x"), "certificate", "holds no certificate"),
    "expired": (lambda fleet, f: new_certificate(fleet, f, -1), "certificate", "mpsl fleet renew dev-1"),
    "soon-expired": (lambda fleet, f: new_certificate(fleet, f, 5), "certificate", "less than 30 days are left"),
    "revoked": (revoked, "TLS", "it has been revoked"),
    "another-id": (lambda _, f: change(f, 'id = "dev-1"', 'id = "dev-2"'), "certificate", "that of dev-1"),
    "none-shown": (lambda _, f: change(f, 'cert = "cert.pem"\nkey = "key.pem"\n', ""), "TLS", "--cert and --key"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_named(
    fleet: ServedFleet, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    breaks, check, says = BROKEN[name]
    breaks(fleet, folder)
    status, found = examined(capsys, "--config", folder / "agent.toml")
    assert status == 1
    assert says in problems(found)[check], problems(found)


# Broken brokers


@contextlib.contextmanager
def changed_broker(
    fleet: ServedFleet, folder: Path, edit: Callable[[str], str], acl: Callable[[str], str] | None = None
) -> Iterator[None]:
    """A second broker of the fleet, its configuration and access list edited; the folder connects to it."""
    files = folder.parent / "broker"
    shutil.copytree(fleet.folder / "broker", files, ignore=shutil.ignore_patterns("*.pid"))
    conf = (files / "mosquitto.conf").read_text().replace(str(fleet.folder / "broker"), str(files))
    (files / "mosquitto.conf").write_text(edit(conf))
    if acl is not None:
        (files / "acl").write_text(acl((files / "acl").read_text()))
    with serving("mosquitto", conf=files / "mosquitto.conf", host="127.0.0.1", port=0) as process:
        change(folder, f"localhost:{fleet.process.port}", f"localhost:{process.port}")
        yield


def without(*words: str) -> Callable[[str], str]:
    """A text without the lines that hold one of the words."""
    return lambda text: "".join(line for line in text.splitlines(True) if not any(word in line for word in words))


def without_user(text: str) -> str:
    return text.replace("user dev-1\n", "user somebody-else\n")


SAME: Callable[[str], str] = str
BROKERS: dict[str, tuple[Callable[[str], str], Callable[[str], str] | None, str, str]] = {
    "access-list-without-us": (SAME, without_user, "access rules", "the device dev-1 may not write"),
    "no-access-list": (without("acl_file"), None, "access rules", "the broker lets a device write"),
    "access-list-too-wide": (
        SAME, lambda text: text.replace("dev/dev-1/res", "dev/+/res"), "access rules", "lets a device write",
    ),
    "reads-nothing": (SAME, without("topic read"), "round trip", "may dev-1 read"),
    "small-packets": (lambda c: c.replace("16777216", "65536"), None, "packet size", "raise its limit"),
    "no-retained-messages": (lambda c: c + "retain_available false\n", None, "retained", "retain_available"),
    "certificates-not-taken-as-names": (
        without("use_identity_as_username", "allow_anonymous"), None, "MQTT", "check the user",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKERS)
def test_a_broken_broker_is_named(
    fleet: ServedFleet, folder: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.doctor.broker_checks.PATIENCE_S", 1.5)
    edit, acl, check, says = BROKERS[name]
    with changed_broker(fleet, folder, edit, acl):
        status, found = examined(capsys, "--config", folder / "agent.toml")
    assert status == 1
    assert says in problems(found)[check], problems(found)


def test_a_broker_whose_certificate_ends_soon(
    fleet: ServedFleet, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, key = FleetFolder(fleet.folder), new_key()
    ends = time.time() + 3 * 86400
    pem = owner.authority().for_server(["localhost"], key.public_key(), x509.random_serial_number(), ends)
    (tmp_path / "server.crt").write_bytes(pem)
    (tmp_path / "server.key").write_bytes(key_pem(key))

    def with_it(conf: str) -> str:
        lines = without("certfile", "keyfile")(conf)
        return f"{lines}certfile {tmp_path}/server.crt\nkeyfile {tmp_path}/server.key\n"

    with changed_broker(fleet, folder, with_it):
        status, found = examined(capsys, "--config", folder / "agent.toml")
    assert status == 1
    assert "mpsl fleet renew broker" in problems(found)["TLS"]


def test_tls_where_there_is_none_and_none_where_there_is(
    fleet: ServedFleet, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving("mosquitto") as plain:
        change(folder, f"localhost:{fleet.process.port}", f"localhost:{plain.port}")
        status, found = examined(capsys, "--config", folder / "agent.toml")
    assert status == 1
    assert "does not speak TLS" in problems(found)["TLS"] or "it may not speak TLS" in problems(found)["TLS"]
    status, found = examined(capsys, "--broker", f"mqtt://127.0.0.1:{fleet.process.port}")
    assert status == 1
    assert "the port may want TLS (mqtts://)" in problems(found)["MQTT"]


def test_a_port_that_is_no_broker(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.doctor.broker_checks.PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, found = examined(capsys, "--broker", f"mqtt://127.0.0.1:{silent.getsockname()[1]}")
    assert status == 1
    assert "did not answer" in problems(found)["MQTT"]


def test_a_broker_that_wants_a_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mosquitto.conf").write_text("listener 1883 127.0.0.1\nallow_anonymous false\n")
    with serving("mosquitto", conf=tmp_path / "mosquitto.conf", host="127.0.0.1", port=0) as process:
        status, found = examined(capsys, "--broker", process.url)
    assert status == 1
    assert "$MPSL_PASSWORD_FILE" in problems(found)["MQTT"]


def test_a_connection_that_others_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 9))
        own = probe.getsockname()[0]
    with serving("mosquitto", host="0.0.0.0") as process:
        status, found = examined(capsys, "--broker", f"mqtt://{own}:{process.port}", "--insecure")
    assert status == 1
    assert "everyone on the way can read" in problems(found)["TLS"]
    assert found["round trip"]["status"] == "ok", "all the same"


# Clock and machine


def test_a_clock_that_is_late(fleet: ServedFleet) -> None:
    address = fleet.address("dev-1")
    clock, certificate, role = check_identity(address, None, None, now=1_500_000_000.0)
    assert clock.status == "problem"
    assert "the clock is late → set it: timedatectl set-ntp true" in clock.line
    assert "is valid from" in certificate.line
    assert role.status == "skipped"


def test_a_broken_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(deep: bool = False) -> dict[str, str]:
        return {each.check: each.line for each in machine_checks.check_machine(None, deep) if each.status == "problem"}

    assert found() == {}
    with monkeypatch.context() as patch:
        patch.setattr(machine_checks, "SCRATCH", tmp_path / "missing")
        assert "mpsl node --scratch DIR" in found()["disk"]
    with monkeypatch.context() as patch:
        patch.setattr(machine_checks, "MIN_DISK_BYTES", 2**60)
        assert "is nearly full" in found()["disk"]
    with monkeypatch.context() as patch:
        (tmp_path / "meminfo").write_text("MemTotal: 500000 kB\nMemAvailable:   102400 kB\n")
        patch.setattr(machine_checks, "MEMINFO", tmp_path / "meminfo")
        assert "100 MiB are available" in found()["memory"]
        (tmp_path / "meminfo").write_text("MemTotal: garbage")
        assert found() == {}
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install torch" in found()["torch"]
    for code, says in (
        ("import os; os.kill(os.getpid(), 4)", "an instruction that this processor does not have"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file')", "libgomp.so.1: cannot open"),
        ("import time; time.sleep(60)", "took more than 1 s"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(machine_checks, "_TRY_TORCH", code)
            patch.setattr(machine_checks, "TORCH_S", 1.0)
            assert says in found(deep=True)["torch"]


# Options that cannot be: said before any check


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('net = "main"', 'net = "lab"', "--net lab: the certificate .* is for the net main"),
        ("mqtts://", "mqtt://", "--ca, --cert and --key go with mqtts"),
        ("mqtts://", "http://", "a broker is mqtt"),
        ("broker =", "brokr =", "unknown key 'brokr'; did you mean 'broker'"),
        ('ca = "ca.pem"', "ca = ca.pem", "is not TOML"),
    ],
)
def test_wrong_options_are_named(folder: Path, old: str, new: str, says: str) -> None:
    change(folder, old, new)
    with pytest.raises(UsageError, match=says):
        mpsl.main(["doctor", "--config", str(folder / "agent.toml")], "mpsl", standalone_mode=False)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises((UsageError, click.UsageError), match=r"missing\.toml: cannot be read"):
        mpsl.main(["doctor", "--config", str(tmp_path / "missing.toml")], "mpsl", standalone_mode=False)
