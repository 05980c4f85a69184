"""Our own certificate: who it says that we are, and the warnings before it ends."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from authorities import DAY_S, NOW, a_certificate, an_authority
from cryptography.hazmat.primitives import serialization
from driving import PATIENCE_S, NoJobs, driving
from fleets import ServedFleet, mpsl_fleet, served
from participant_rig import TOPICS, Rig

from broker.command import mpsl
from broker.connection import connect
from broker.driver import Driver
from broker.ls import Listing, table
from broker.options import NetworkOptions, network_options
from broker.own_certificate import certificate_problem, check_own_role, ending_soon, member_of, own_id
from mpsl.errors import UsageError
from mpsl.identity.fleet_member import FleetMember
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Publish
from mpsl.machines.events import Connected, Subscribed, TimerFired, Warned
from mpsl.machines.machine import from_json
from mpsl.topics import Topics

DEVICE = FleetMember("main", "device", "dev-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A member's folder in a fleet."""
    mpsl_fleet("init", "--dir", tmp_path / "fleet")
    mpsl_fleet("add", "dev-1", "--role", "device", "--dir", tmp_path / "fleet")
    return tmp_path / "fleet" / "clients" / "dev-1"


def called(*arguments: str) -> NetworkOptions:
    """What a command without --id gets."""
    found: list[NetworkOptions] = []

    @click.command()
    @network_options
    def command(*, network: NetworkOptions) -> None:
        found.append(network)

    command.main(list(arguments), "command", standalone_mode=False)
    return found[0]


def test_every_command_takes_who_we_are_from_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    network = called("--config", str(folder / "agent.toml"))
    assert network.member == DEVICE
    assert network.address.shown == "mqtts://localhost:8883"
    assert network.address.context() is not None, "its files are found from everywhere"
    monkeypatch.setenv("MPSL_CONFIG", str(folder / "agent.toml"))
    again = called()
    assert (again.address, again.member, again.topics.net) == (network.address, network.member, network.topics.net)


def test_explicit_options_go_before_the_file(folder: Path) -> None:
    config = ["--config", str(folder / "agent.toml")]
    assert called(*config, "--broker", "mqtts://other:1").address.shown == "mqtts://other:1"
    plain = called(*config, "--broker", "mqtt://127.0.0.1").address
    assert (plain.tls, plain.ca, plain.cert, plain.key) == (False, None, None, None)
    with pytest.raises(UsageError, match="go with mqtts"):
        called(*config, "--broker", "mqtt://127.0.0.1", "--cert", "x.pem")
    with pytest.raises(UsageError, match=r"the certificate .* is for the net main"):
        called(*config, "--net", "lab")


def test_a_password_beside_the_certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPSL_PASSWORD_FILE", "")
    mpsl_fleet("passwords", "--dir", folder.parent.parent)
    config = ["--config", str(folder / "agent.toml")]
    address = called(*config).address
    assert (address.user, address.password) == ("dev-1", (folder / "password").read_text().strip())
    monkeypatch.setenv("MPSL_PASSWORD_FILE", "")
    assert called(*config, "--broker", "mqtts://other").address.password is None


def test_the_certificate_says_who_we_are(folder: Path) -> None:
    member = member_of(str(folder / "cert.pem"), "main")
    assert own_id(member, None, "host-device", "device") == "dev-1"
    assert own_id(member, "dev-1", "host-device", "device") == "dev-1"
    assert own_id(None, None, "host-device", "device") == "host-device"
    assert own_id(None, "dev-7", "host-device", "device") == "dev-7"
    with pytest.raises(UsageError, match="--id dev-2: the certificate is that of dev-1"):
        own_id(member, "dev-2", "host-device", "device")
    with pytest.raises(
        UsageError, match="certificate of device dev-1 of net main, and `mpsl node` needs one of role node"
    ):
        own_id(member, None, "host-node", "node")
    with pytest.raises(UsageError, match="`mpsl train` needs one of role orchestrator"):
        check_own_role(member, "orchestrator", "train")
    assert member_of(None, "main") is None
    assert member_of(str(folder / "missing.pem"), "main") is None
    assert member_of(str(folder / "ca.pem"), "main") is None


@pytest.mark.parametrize("command", [["device", "--data", "x"], ["node"], ["train", "job.toml", "--out", "out"]])
def test_the_role_is_checked_before_anything_else(folder: Path, command: list[str]) -> None:
    mpsl_fleet("add", "watch", "--role", "viewer", "--dir", folder.parent.parent)
    with pytest.raises(UsageError, match="certificate of viewer watch of net main"):
        mpsl.main([*command, "--config", str(folder.parent / "watch" / "agent.toml")], "mpsl", standalone_mode=False)


def written(tmp_path: Path, days: float, member: FleetMember = DEVICE) -> tuple[str, str]:
    """The files of a certificate that ends so many days after NOW, and of its authority."""
    authority = an_authority()
    for name, certificate in {"cert": a_certificate(authority, member, days), "ca": authority.certificate}.items():
        (tmp_path / f"{name}.pem").write_bytes(certificate.parsed.public_bytes(serialization.Encoding.PEM))
    return str(tmp_path / "cert.pem"), str(tmp_path / "ca.pem")


def test_there_is_a_warning_30_days_before_the_end(tmp_path: Path) -> None:
    cert, ca = written(tmp_path, 40)
    assert ending_soon(cert, NOW) == ending_soon(cert, NOW + 9.9 * DAY_S) == ""
    assert ending_soon(cert, NOW + 10.1 * DAY_S) == (
        "our certificate ends on 2027-02-24 08:00 UTC, in 30 days: `mpsl fleet renew dev-1`"
    )
    assert "has ended on 2027-02-24 08:00 UTC, already" in ending_soon(cert, NOW + 41 * DAY_S)
    assert ending_soon(str(tmp_path / "missing.pem"), NOW) == ""
    assert certificate_problem(cert, ca, NOW) == ""
    assert "was valid until 2027-02-24" in certificate_problem(cert, ca, NOW + 41 * DAY_S)
    (tmp_path / "other").mkdir()
    assert "not signed by this fleet's authority" in certificate_problem(cert, written(tmp_path / "other", 9)[1], NOW)
    assert "cannot be read: No such file" in certificate_problem(str(tmp_path / "x.pem"), None, NOW)


def statuses(rig: Rig) -> list[dict[str, Any]]:
    topic = TOPICS.participant("dev", "dev-1", "status")
    return [
        from_json(effect.payload) or {}
        for effect in rig.effects
        if isinstance(effect, Publish) and effect.topic == topic
    ]


def test_a_warning_is_in_the_status_until_it_is_over() -> None:
    rig = Rig(DeviceMachine("dev-1", "d", TOPICS, {}))
    rig.handle(Warned("our certificate ends soon"))
    assert statuses(rig) == [], "not before it is online"
    for event in (Connected(), Subscribed(), TimerFired("announce")):
        rig.handle(event)
    assert statuses(rig)[-1]["warning"] == "our certificate ends soon"
    rig.handle(Warned(""))
    assert "warning" not in statuses(rig)[-1]
    assert len(statuses(rig)) == 2
    assert b"warning" not in bytes(rig.machine.will.payload)


def test_ls_shows_warnings() -> None:
    listing = Listing(TOPICS)
    status = b'{"state":"online","role":"device","boot":"b","protocol":3,"version":"1","warning":"ends\\u001b[2J soon"}'
    listing.note(TOPICS.participant("dev", "dev-1", "status"), status, 0.0)
    listing.note(TOPICS.participant("dev", "dev-1", "tele"), b'{"boot":"b","uptime_s":1}', 0.0)
    rows = listing.rows()
    assert rows["devices"][0]["warning"] == "ends\x1b[2J soon"
    assert "dev-1: ends\\x1b[2J soon" in table(rows)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    with served(tmp_path_factory.mktemp("ending") / "fleet") as fleet:
        yield fleet


@pytest.mark.slow
def test_a_running_process_warns_and_takes_the_renewed_certificate(
    running: ServedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.driver.CERTIFICATE_S", 0.05)
    mpsl_fleet("renew", "dev-1", "--days", "20", "--dir", running.folder)
    said: list[tuple[str, str]] = []

    async def scenario() -> None:
        topics = Topics("main")
        machine = DeviceMachine("dev-1", "0a1b", topics, {})
        log = lambda level, event, facts: said.append((level, event))  # noqa: E731
        driver = Driver(machine, NoJobs(), running.address("dev-1"), "t", log)
        async with connect(running.address("orch"), "t-orch") as orch, driving(driver):
            await orch.subscribe((topics.participant("dev", "dev-1", "status"),))
            seen = [from_json((await anext(orch.messages())).payload) or {}]
            while "warning" not in seen[-1]:
                seen.append(from_json((await anext(orch.messages())).payload) or {})
            assert "in 20 days: `mpsl fleet renew dev-1`" in seen[-1]["warning"]
            mpsl_fleet("renew", "dev-1", "--dir", running.folder)
            while "warning" in seen[-1]:
                seen.append(from_json((await anext(orch.messages())).payload) or {})

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert said.count(("warning", "certificate-ends")) == 1
