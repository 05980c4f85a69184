"""`mpsl fleet`: what it writes, who can read it, what it refuses, and that a failure leaves what was there."""

import base64
import fcntl
import hashlib
import json
import os
import stat
import time
import tomllib
from pathlib import Path

import click
import pytest
from fleets import mpsl_fleet

from broker.fleet import broker_files, membership
from broker.fleet.fleet_folder import FleetFolder
from broker.fleet.listing import list_members
from broker.fleet.passwords import hashed
from mpsl.access_rules import matches, rules_of
from mpsl.errors import DiskError, UsageError
from mpsl.identity.certificate import believe, read_certificate
from mpsl.identity.fleet_member import FleetMember

DAY_S = 86400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fleet with one device, in a folder of its own."""
    path = tmp_path / "fleet"
    mpsl_fleet("init", "--dir", path, "--host", "broker.example", "--host", "10.0.0.7")
    mpsl_fleet("add", "dev-1", "--role", "device", "--dir", path)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_init_and_add_write_what_the_broker_and_the_member_need(folder: Path) -> None:
    assert {path.name for path in (folder / "broker").iterdir()} == {
        "mosquitto.conf", "acl", "server.crt", "server.key", "ca.pem", "crl.pem",
    }  # fmt: skip
    client = folder / "clients" / "dev-1"
    assert {path.name for path in client.iterdir()} == {"ca.pem", "cert.pem", "key.pem", "agent.toml"}
    assert tomllib.loads((client / "agent.toml").read_text()) == {
        "broker": "mqtts://broker.example:8883", "net": "main", "id": "dev-1",
        "ca": "ca.pem", "cert": "cert.pem", "key": "key.pem",
    }  # fmt: skip
    authority, own = (read_certificate((client / name).read_bytes()) for name in ("ca.pem", "cert.pem"))
    assert believe(own, authority, time.time(), role="device") == FleetMember("main", "device", "dev-1")
    assert 364 * DAY_S < own.end - time.time() <= 365 * DAY_S


def test_keys_can_be_read_by_their_owner_alone(folder: Path) -> None:
    keys = [folder / "ca.key", folder / "broker" / "server.key", folder / "clients" / "dev-1" / "key.pem"]
    assert [mode(key) for key in keys] == [0o600] * 3
    for private in (folder / "clients", folder / "clients" / "dev-1", folder / "broker"):
        assert mode(private) == 0o700
    secret = (folder / "ca.key").read_bytes()
    assert [name for name, content in everything(folder).items() if content == secret] == ["ca.key"]


def test_a_second_init_refuses_and_changes_nothing(folder: Path) -> None:
    before = everything(folder)
    with pytest.raises(UsageError, match=r"holds a fleet already \(fleet.json\)"):
        mpsl_fleet("init", "--dir", folder)
    (folder / "fleet.json").unlink()
    with pytest.raises(UsageError, match=r"holds a fleet already \(ca.key\)"):
        mpsl_fleet("init", "--dir", folder)
    assert everything(folder) == {name: content for name, content in before.items() if name != "fleet.json"}


def test_count_numbers_the_members(folder: Path) -> None:
    mpsl_fleet("add", "pi", "--role", "node", "--count", "3", "--days", "10", "--dir", folder)
    found = {member.id: member.role for member in FleetFolder(folder).register().everyone()}
    assert found == {"dev-1": "device", "pi-1": "node", "pi-2": "node", "pi-3": "node"}
    certificates = [(folder / "clients" / f"pi-{n}" / "cert.pem").read_bytes() for n in (1, 2, 3)]
    assert len(set(certificates)) == 3
    for pem in certificates:
        assert 9 * DAY_S < read_certificate(pem).end - time.time() <= 10 * DAY_S


def test_the_access_list_has_each_members_rules_and_nothing_else(folder: Path) -> None:
    mpsl_fleet("add", "node-1", "--role", "node", "--dir", folder)
    mpsl_fleet("add", "watch", "--role", "viewer", "--dir", folder)
    mpsl_fleet("add", "orch", "--role", "orchestrator", "--dir", folder)
    found: dict[str, set[str]] = {}
    user = ""
    for line in (folder / "broker" / "acl").read_text().splitlines():
        if line.startswith("user "):
            user = line[5:]
        elif line.startswith("topic "):
            found.setdefault(user, set()).add(line[6:])
        else:
            assert line.startswith("#") or not line
    expected = {
        member.id: {f"{rule.access} {rule.filter}" for rule in rules_of(member)}
        for member in FleetFolder(folder).register().everyone()
    }
    assert found == expected
    assert not any(line.startswith("write") for line in found["watch"])
    assert not any(matches(line.split()[1], "mpsl/v1/main/seat/r/1_0/fwd/dev-1") for line in found["watch"])


def test_renewing_gives_a_later_end_and_keeps_the_key(folder: Path) -> None:
    client = folder / "clients" / "dev-1"
    key, before = (client / "key.pem").read_bytes(), read_certificate((client / "cert.pem").read_bytes())
    mpsl_fleet("renew", "dev-1", "--days", "500", "--dir", folder)
    after = read_certificate((client / "cert.pem").read_bytes())
    assert (client / "key.pem").read_bytes() == key
    assert after.parsed.public_key() == before.parsed.public_key()
    assert after.end > before.end
    assert after.member == before.member
    assert FleetFolder(folder).register().revoked == ()
    mpsl_fleet("renew", "dev-1", "--new-key", "--dir", folder)
    assert (client / "key.pem").read_bytes() != key
    revoked = {int(each.serial, 16) for each in FleetFolder(folder).register().revoked}
    assert revoked == {before.serial, after.serial}


def test_a_key_that_is_made_elsewhere_never_comes_here(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "pi"
    mpsl_fleet("request", "pi-1", "--role", "device", "--out", own)
    asked = capsys.readouterr().out
    assert {path.name for path in own.iterdir()} == {"key.pem", "request.pem"}
    assert mode(own / "key.pem") == 0o600
    mpsl_fleet("approve", own / "request.pem", "--dir", folder)
    approved = capsys.readouterr().out
    client = folder / "clients" / "pi-1"
    assert {path.name for path in client.iterdir()} == {"ca.pem", "cert.pem", "agent.toml"}
    fingerprints = [line.split(": ")[1].split(";")[0] for line in approved.splitlines() if "fingerprint" in line]
    assert fingerprints[0] in asked, "of the key"
    assert fingerprints[1] == read_certificate((folder / "ca.pem").read_bytes()).fingerprint
    secret = (own / "key.pem").read_bytes()
    assert secret not in everything(folder).values()
    # The same key again is a renewal, and another one is not.
    mpsl_fleet("request", "pi-1", "--role", "device", "--out", own)
    assert (own / "key.pem").read_bytes() == secret
    mpsl_fleet("approve", own / "request.pem", "--dir", folder)
    mpsl_fleet("renew", "pi-1", "--dir", folder)
    with pytest.raises(UsageError, match="made on its own machine"):
        mpsl_fleet("renew", "pi-1", "--new-key", "--dir", folder)
    mpsl_fleet("request", "pi-1", "--role", "device", "--out", tmp_path / "thief")
    with pytest.raises(UsageError, match="is a member with another key"):
        mpsl_fleet("approve", tmp_path / "thief" / "request.pem", "--dir", folder)
    mpsl_fleet("request", "dev-1", "--role", "orchestrator", "--out", tmp_path / "climber")
    with pytest.raises(UsageError, match="is a member with another key"):
        mpsl_fleet("approve", tmp_path / "climber" / "request.pem", "--dir", folder)
    mpsl_fleet("request", "pi-2", "--role", "device", "--net", "other", "--out", tmp_path / "stranger")
    with pytest.raises(UsageError, match="asks for the net other; this fleet is main"):
        mpsl_fleet("approve", tmp_path / "stranger" / "request.pem", "--dir", folder)


def test_a_revoked_member_is_gone_and_its_id_is_free(folder: Path) -> None:
    old = read_certificate((folder / "clients" / "dev-1" / "cert.pem").read_bytes())
    mpsl_fleet("revoke", "dev-1", "--dir", folder)
    assert "dev-1" not in (folder / "broker" / "acl").read_text()
    assert not (folder / "clients" / "dev-1").exists()
    with pytest.raises(UsageError, match=r"'dev-1' is no member of this fleet; it was revoked on 20"):
        mpsl_fleet("revoke", "dev-1", "--dir", folder)
    with pytest.raises(UsageError, match="it was revoked on 20"):
        mpsl_fleet("renew", "dev-1", "--dir", folder)
    mpsl_fleet("add", "dev-1", "--role", "node", "--dir", folder)
    assert [int(each.serial, 16) for each in FleetFolder(folder).register().revoked] == [old.serial]


def test_the_list_says_until_when(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mpsl_fleet("add", "short", "--role", "viewer", "--days", "29", "--dir", folder)
    mpsl_fleet("add", "gone", "--role", "viewer", "--dir", folder)
    mpsl_fleet("revoke", "gone", "--dir", folder)
    capsys.readouterr()
    mpsl_fleet("list", "--dir", folder)
    text = capsys.readouterr().out
    states = {line.split()[1]: line.split("  ")[-1].strip() for line in text.splitlines()[1:6]}
    assert states["dev-1"] == states["broker"] == states["authority"] == "valid"
    assert states["short"] == "ends in 28 days: renew it"
    assert "revoked  gone, on 20" in text
    later = json.loads(list_members(FleetFolder(folder), True, time.time() + 366 * DAY_S))
    assert {row["id"]: row["state"] for row in later["members"]}["dev-1"] == "expired: renew it"
    assert [row["id"] for row in later["revoked"]] == ["gone"]


def test_passwords_are_hashed_for_the_broker_and_kept_for_their_member(folder: Path) -> None:
    mpsl_fleet("passwords", "--dir", folder)
    client = folder / "clients" / "dev-1"
    password = (client / "password").read_text().strip()
    assert len(password) >= 32
    assert mode(client / "password") == mode(folder / "broker" / "passwords") == 0o600
    (line,) = (folder / "broker" / "passwords").read_text().splitlines()
    assert password not in line
    name, form = line.split(":")
    _, kind, iterations, salt, digest = form.split("$")
    made = hashlib.pbkdf2_hmac("sha512", password.encode(), base64.b64decode(salt), int(iterations))
    assert (name, kind, base64.b64decode(digest)) == ("dev-1", "7", made)
    assert hashed("a", b"salt") == hashed("a", b"salt") != hashed("a", b"tlas")
    options = tomllib.loads((client / "agent.toml").read_text())
    assert (options["broker"], options["password-file"]) == ("mqtts://dev-1@broker.example:8883", "password")
    mpsl_fleet("passwords", "--dir", folder)
    assert (client / "password").read_text().strip() == password


# What is refused, each in one clear error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("add dev-1 --role device", "id 'dev-1' is taken by a device"),
        ("add new dev-1 --role node", "id 'dev-1' is taken by a device"),
        ("add Dev --role device", "'Dev' is not an id"),
        ("add a/b --role device", "'a/b' is not an id"),
        ("add + --role device", "'+' is not an id"),
        ("add .. --role device", "'..' is not an id"),
        ("add orch --role device", "'orch' is reserved"),
        ("add broker --role viewer", "'broker' is reserved"),
        ("add x x --role device", "'x' is named twice"),
        ("add x y --role device --count 2", "--count 2 goes with one ID"),
        ("add aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa --role device --count 100", "is not an id"),
        ("add x --role device --days 100000", "--days 100000: the authority of this fleet ends on"),
        ("renew nobody", "'nobody' is no member of this fleet"),
        ("revoke nobody", "'nobody' is no member of this fleet"),
        ("revoke broker", "'broker' is no member of this fleet"),
        ("renew dev-1 --host a.example", "--host is a name of the broker"),
        ("renew broker --host a_b/c", "is no host name and no IP number"),
        ("approve missing.pem", "missing.pem: No such file or directory"),
        ("request x --role device --net UPPER --out /nowhere/x", "'UPPER' is not an id"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(folder: Path, arguments: str, says: str) -> None:
    before = everything(folder)
    command = arguments.split()
    where = [] if command[0] == "request" else ["--dir", folder]
    with pytest.raises(UsageError) as caught:
        mpsl_fleet(*command, *where)
    assert says in str(caught.value)
    assert everything(folder) == before


@pytest.mark.parametrize(
    "arguments",
    ["add x --role device --count 0", "add x --role king", "add --role device", "add x --role device --days 0"],
)
def test_wrong_use_is_told_by_the_command_line(folder: Path, arguments: str) -> None:
    with pytest.raises(click.UsageError):
        mpsl_fleet(*arguments.split(), "--dir", folder)


@pytest.mark.parametrize("host", ["", "a b", "a..b", "-", "ä.example", "a/b", "x" * 64, "[::1]", "mqtts://a"])
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    with pytest.raises(UsageError, match="is no host name and no IP number"):
        mpsl_fleet("init", "--dir", tmp_path / "f", "--host", host)
    assert not (tmp_path / "f").exists()


def damage(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("ca.key", None, "ca.key: No such file or directory; this needs the authority of the fleet"),
        ("ca.key", b"", "ca.key: holds no private key that can be read"),
        ("ca.key", b"\xff\x00garbage", "ca.key: holds no private key that can be read"),
        ("ca.pem", None, "ca.pem: No such file or directory"),
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "ca.pem: holds no certificate"),
        ("fleet.json", None, "holds no fleet"),
        ("fleet.json", b"{", "fleet.json: is not JSON"),
        ("fleet.json", b"[]", "fleet.json: "),
        ("fleet.json", b'{"net": "main", "hosts": [], "port": 1, "broker_path": "x"}', "hosts: names no host"),
        ("fleet.json", b'{"net": "main", "hosts": ["a"], "port": "1", "broker_path": "x"}', "port: Expected `int`"),
        (
            "fleet.json",
            b'{"net": "main", "hosts": ["a"], "port": 1, "broker_path": "x", '
            b'"members": {"a\\nuser orch": {"role": "device", "ends": 1, "serials": []}}}',
            "is not an id",
        ),
        (
            "fleet.json",
            b'{"net": "main", "hosts": ["a"], "port": 1, "broker_path": "x", '
            b'"members": {"a": {"role": "device", "ends": 1, "serials": ["zz"]}}}',
            "members.a: invalid literal",
        ),
    ],
)  # fmt: skip
def test_damaged_files_are_named(folder: Path, name: str, content: bytes | None, says: str) -> None:
    damage(folder / name, content)
    before = everything(folder)
    with pytest.raises(UsageError) as caught:
        mpsl_fleet("add", "x", "--role", "device", "--dir", folder)
    assert says in str(caught.value)
    assert everything(folder) == before


def test_the_key_of_another_fleet_is_noticed(folder: Path, tmp_path: Path) -> None:
    mpsl_fleet("init", "--dir", tmp_path / "other")
    damage(folder / "ca.key", (tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(UsageError, match="certificate and key of the authority do not belong together"):
        mpsl_fleet("add", "x", "--role", "device", "--dir", folder)


def test_a_damaged_certificate_of_a_member_is_named(folder: Path) -> None:
    damage(folder / "clients" / "dev-1" / "cert.pem", b"garbage")
    with pytest.raises(UsageError, match=r"cert\.pem: holds no certificate that can be read.*revoke dev-1"):
        mpsl_fleet("renew", "dev-1", "--dir", folder)
    mpsl_fleet("revoke", "dev-1", "--dir", folder)


def test_two_at_a_time_are_refused(folder: Path) -> None:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another `mpsl fleet` is changing it"):
            mpsl_fleet("add", "x", "--role", "device", "--dir", folder)
    mpsl_fleet("add", "x", "--role", "device", "--dir", folder)


def test_a_full_disk_in_the_middle_leaves_the_fleet_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(folder)
    written: list[Path] = []

    def failing(path: Path, content: bytes | str, mode: int = 0o666) -> None:
        written.append(path)
        if len(written) > 6:
            raise DiskError(f"{path}: cannot be written: No space left on device")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    monkeypatch.setattr("broker.fleet.client_folder.write_whole", failing)
    with pytest.raises(DiskError, match="No space left"):
        mpsl_fleet("add", "x", "--role", "device", "--count", "5", "--dir", folder)
    monkeypatch.undo()
    assert everything(folder) == before
    mpsl_fleet("add", "x", "--role", "device", "--count", "5", "--dir", folder)


def test_a_folder_that_is_there_without_a_member_is_not_overwritten(folder: Path) -> None:
    (folder / "clients" / "x").mkdir()
    (folder / "clients" / "x" / "key.pem").write_text("mine")
    with pytest.raises(UsageError, match="is there already, and of no member; move it away"):
        mpsl_fleet("add", "x", "--role", "device", "--dir", folder)
    assert (folder / "clients" / "x" / "key.pem").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(folder: Path) -> None:
    folder.chmod(0o500)
    with pytest.raises((UsageError, DiskError), match="Permission denied"):
        mpsl_fleet("add", "x", "--role", "device", "--dir", folder)


def test_no_file_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((click.UsageError, DiskError)):
        mpsl_fleet("init", "--dir", tmp_path / "file" / "fleet")


def test_a_revocation_list_is_always_newer_than_the_one_before(folder: Path) -> None:
    from cryptography import x509

    owner, now = FleetFolder(folder), time.time()
    seen = []
    for _ in range(3):
        membership.renew_broker(owner, [], now)
        listed = x509.load_pem_x509_crl((folder / "broker" / broker_files.REVOKED).read_bytes())
        seen.append(listed.last_update_utc.timestamp())
    assert seen == sorted(set(seen))
    assert seen[-1] < now - DAY_S / 2, "also for a broker whose clock is late"
