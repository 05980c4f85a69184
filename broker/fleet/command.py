"""`mpsl fleet`: makes and keeps the identities of everyone who takes part, and the files of their broker."""

import ipaddress
import re
import time
from collections.abc import Sequence
from pathlib import Path

import click

from broker.fleet import membership
from broker.fleet.broker_reload import reload_broker
from broker.fleet.fleet_folder import FleetFolder
from broker.fleet.listing import list_members
from broker.fleet.own_request import make_request
from broker.fleet.passwords import make_passwords
from mpsl.errors import UsageError
from mpsl.identity.authority import key_fingerprint
from mpsl.identity.certificate import read_certificate, shown
from mpsl.identity.fleet_member import ROLES
from mpsl.names import BROKER, check_id

MAX_COUNT = 10_000
_LABEL = re.compile("[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

dir_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("fleet"), show_default=True,
    metavar="DIR", help="The folder of the fleet.",
)  # fmt: skip
days_option = click.option(
    "--days", type=click.IntRange(1), default=365, show_default=True, help="How long the certificates are valid."
)
role_option = click.option("--role", type=click.Choice(ROLES), required=True, help="What they are.")
net_option = click.option("--net", default="main", show_default=True, help="Net, in all topics: mpsl/v1/NET/…")


@click.group()
def fleet() -> None:
    """Make the identities of everyone who takes part, and the files of their broker.

    The folder's ca.key can make members: keep it on one machine that is neither the broker's nor a device.
    """


@fleet.command()
@dir_option
@net_option
@click.option(
    "--host", "hosts", multiple=True, metavar="HOST",
    help="A name or IP number of the broker; given again: another. Members connect to the first.  [default: localhost]",
)  # fmt: skip
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="The broker's port.")
@click.option(
    "--broker-path", metavar="PATH", help="Where DIR/broker will lie on the broker's machine.  [default: where it is]"
)
def init(*, folder: Path, net: str, hosts: Sequence[str], port: int, broker_path: str | None) -> None:
    """Make the authority of a new fleet, once, and the files of its broker."""
    check_id(net, "--net")
    names = list(dict.fromkeys([*map(_check_host, hosts), *LOCAL_HOSTS]))
    made = FleetFolder(folder)
    authority = made.create(net, names, port, broker_path, time.time())
    print(f"authority: {folder / 'ca.pem'}, until {shown(authority.end)}")
    print(f"fingerprint: {authority.fingerprint}")
    print(f"broker: mosquitto -c {made.broker / 'mosquitto.conf'}")
    if not hosts:
        print("members connect to localhost, so it serves this machine alone; --host names the broker's machine")


@fleet.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@role_option
@click.option("--count", type=click.IntRange(1, MAX_COUNT), metavar="N", help="N of them: ID-1 to ID-N.")
@days_option
@dir_option
def add(*, ids: Sequence[str], role: str, count: int | None, days: int, folder: Path) -> None:
    """Make a key, a certificate and a client folder for each ID."""
    if count is not None:
        if len(ids) != 1:
            raise UsageError(f"--count {count} goes with one ID, which the numbers are put behind")
        ids = [f"{ids[0]}-{number}" for number in range(1, count + 1)]
    changed = FleetFolder(folder)
    with changed.changing():
        for member in membership.add(changed, ids, role, days, time.time()):
            print(f"{member.role} {member.id}: {changed.client(member.id)}")
        print(reload_broker(changed.broker))


@fleet.command()
@click.argument("id", metavar="ID")
@role_option
@net_option
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where the key goes.  [default: ID]"
)
def request(*, id: str, role: str, net: str, out: Path | None) -> None:
    """On a device: make a key that never leaves it, and a request for its certificate."""
    folder = out or Path(id)
    path, key = make_request(folder, id, role, net)
    print(f"request: {path}; take it to the authority: mpsl fleet approve {path.name}")
    print(f"fingerprint of the key: {key_fingerprint(key)}")
    print(f"`approve` shows the same one, and answers with files that belong into {folder}")


@fleet.command()
@click.argument("request", type=click.Path(path_type=Path), metavar="REQUEST")
@days_option
@dir_option
def approve(*, request: Path, days: int, folder: Path) -> None:
    """Answer a request with a client folder without key."""
    changed = FleetFolder(folder)
    with changed.changing():
        member, key = membership.approve(changed, request, days, time.time())
        print(f"{member.role} {member.id}: {changed.client(member.id)}; copy its files beside the key")
        print(f"fingerprint of the key: {key_fingerprint(key)}; `request` has shown the same one, else revoke it")
        print(f"fingerprint of the authority: {read_certificate(changed.ca()).fingerprint}")
        print(reload_broker(changed.broker))


@fleet.command("list")
@dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def list_(*, folder: Path, as_json: bool) -> None:
    """Show who is there, in which role, and until when."""
    print(list_members(FleetFolder(folder), as_json, time.time()))


@fleet.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--new-key", "with_new_key", is_flag=True, help="Make a new key, too, and revoke the old certificate.")
@click.option("--host", "hosts", multiple=True, metavar="HOST", help="For the ID broker: one more name of it.")
@days_option
@dir_option
def renew(*, ids: Sequence[str], with_new_key: bool, hosts: Sequence[str], days: int, folder: Path) -> None:
    """Make new certificates; the ID `broker` is the broker's own. A running process takes it when it reconnects."""
    changed, names = FleetFolder(folder), list(map(_check_host, hosts))
    if names and list(ids) != [BROKER]:
        raise UsageError(f"--host is a name of the broker: `mpsl fleet renew {BROKER} --host HOST`")
    with changed.changing():
        members = [id for id in dict.fromkeys(ids) if id != BROKER]
        if members:
            for member in membership.renew(changed, members, days, with_new_key, time.time()):
                print(f"{member.role} {member.id}: {changed.client(member.id)}")
        if BROKER in ids:
            register = membership.renew_broker(changed, names, time.time())
            print(f"broker: {changed.broker}, for {', '.join(register.hosts)}")
        print(reload_broker(changed.broker))


@fleet.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@dir_option
def revoke(*, ids: Sequence[str], folder: Path) -> None:
    """End the membership of each ID: it gets no connection, and one that it has falls mute."""
    changed = FleetFolder(folder)
    with changed.changing():
        for member in membership.revoke(changed, ids, time.time()):
            print(f"{member.role} {member.id}: revoked")
        print(reload_broker(changed.broker))


@fleet.command()
@dir_option
def passwords(*, folder: Path) -> None:
    """Make a password for everyone, for brokers that want user names and passwords."""
    changed = FleetFolder(folder)
    with changed.changing():
        path, new = make_passwords(changed)
        print(f"passwords: {path}, {new} new; each member's is in its client folder, which agent.toml names")
        print(reload_broker(changed.broker))


def _check_host(host: str) -> str:
    if all(map(_LABEL.fullmatch, host.split("."))) or _is_number(host):
        return host
    raise UsageError(f"--host {host!r}: is no host name and no IP number")


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
