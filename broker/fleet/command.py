"""`mpsl fleet`: makes and keeps the identities of everyone who takes part, and the files of their broker."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from broker.fleet.broker_reload import reload_broker
from broker.fleet.fleet_folder import FleetFolder
from mpsl.errors import UsageError
from mpsl.identity.certificate import shown
from mpsl.identity.fleet_member import ROLES
from mpsl.names import check_id

MAX_COUNT = 10_000
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

dir_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path("fleet"), show_default=True,
    metavar="DIR", help="The folder of the fleet.",
)  # fmt: skip
days_option = click.option(
    "--days", type=click.IntRange(1), default=365, show_default=True, help="How long the certificates are valid."
)


@click.group()
def fleet() -> None:
    """Make the identities of everyone who takes part, and the files of their broker.

    The folder's ca.key can make members: keep it on one machine that is neither the broker's nor a device.
    """


@fleet.command()
@dir_option
@click.option("--net", default="main", show_default=True, help="Whose topics: mpsl/v1/NET/…")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="A name or IP number of the broker; given again: another. Members connect to the first.  [default: localhost]",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="The broker's port.")
@click.option(
    "--broker-path",
    metavar="PATH",
    help="Where the folder broker will lie on the broker's machine.  [default: DIR/broker]",
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
@click.option("--role", type=click.Choice(ROLES), required=True, help="What they are.")
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
        members = changed.add(ids, role, days, time.time())
        said = reload_broker(changed.broker)
    for member in members:
        print(f"{member.role} {member.id}: {changed.client(member.id)}")
    print(said)


def _check_host(host: str) -> str:
    labels = host.rstrip(".").split(".")
    if ":" in host or all(
        label and len(label) < 64 and label.replace("-", "a").isalnum() and label.isascii() for label in labels
    ):
        return host
    raise UsageError(f"--host {host!r}: is no host name and no IP number")
