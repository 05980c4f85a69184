"""The files that mosquitto needs to serve a fleet: configuration, access list, server's certificate, revocation list.

They lie in one folder, which can be copied to the broker's machine. Each is written whole, as the folder's owner, so
that a broker that reads them again at any moment finds sound ones.
"""

import contextlib
import os
import pwd
from collections.abc import Iterable
from pathlib import Path

from broker.engines.mosquitto import SETTINGS
from mpsl.access_rules import rules_of
from mpsl.identity.fleet_member import FleetMember
from mpsl.whole_file import PRIVATE, write_whole

CONF, ACCESS, SERVER_CERT, SERVER_KEY, CA, REVOKED, PID = (
    "mosquitto.conf", "acl", "server.crt", "server.key", "ca.pem", "crl.pem", "mosquitto.pid",
)  # fmt: skip
MOSQUITTO_USER = "mosquitto"


def make_folder(folder: Path) -> None:
    """Make the folder. Where root makes it, it belongs to mosquitto's user, as that will read it. Raises OSError."""
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(MOSQUITTO_USER)
            os.chown(folder, entry.pw_uid, entry.pw_gid)


def put_file(folder: Path, name: str, content: str | bytes) -> None:
    """Write one file of the folder, for its owner alone. Raises DiskError."""
    write_whole(folder / name, content, PRIVATE)
    if os.geteuid() == 0:
        owner = folder.stat()
        os.chown(folder / name, owner.st_uid, owner.st_gid)


def access_list(members: Iterable[FleetMember]) -> str:
    """The text of mosquitto's `acl_file`: what no line allows is forbidden."""
    lines = [
        "# Written by `mpsl fleet` from the roles of the members; changes here are lost. docs/security.md explains it."
    ]
    for member in members:
        lines += ["", f"# {member.role}", f"user {member.id}"]
        lines += [f"topic {rule.access} {rule.filter}" for rule in rules_of(member)]
    return "\n".join([*lines, ""])


def configuration(path: str, port: int, user: str) -> str:
    """The text of mosquitto.conf for a folder that lies at `path` on the broker's machine."""
    shared = "\n".join(line for line in SETTINGS.splitlines() if not line.startswith("allow_anonymous"))
    return f"""\
# The broker of a fleet: `mosquitto -c {path}/{CONF}`. Written once by `mpsl fleet init`, and yours to change.
# The other files of this folder are written again by `mpsl fleet`; mosquitto reads the access list, the certificates
# and the revocation list again when it gets SIGHUP.

# Every interface, encrypted.
listener {port}
tls_version tlsv1.2
cafile {path}/{CA}
certfile {path}/{SERVER_CERT}
keyfile {path}/{SERVER_KEY}

# Nobody without a certificate of this fleet's authority that is valid and not revoked. Its name is the user name.
require_certificate true
use_identity_as_username true
allow_anonymous false
crlfile {path}/{REVOKED}

# Who may write and read what: made from the roles.
acl_file {path}/{ACCESS}

# `mpsl fleet` finds the broker here, to have it read its files again.
pid_file {path}/{PID}

# The user that mosquitto changes to when root starts it. It must be able to read this folder.
user {user}

# The mosquitto.conf of the project explains these.
{shared}
"""


def user_for(folder: Path) -> str:
    """The user that mosquitto can run as: its own where that reaches the folder; else root, if root made the folder.

    Whoever starts mosquitto without being root keeps its own user, whatever the file says.
    """
    if os.geteuid() != 0:
        return MOSQUITTO_USER
    try:
        owner = pwd.getpwuid(folder.stat().st_uid).pw_name
    except KeyError:
        return "root"
    reachable = all(parent.stat().st_mode & 0o001 for parent in folder.resolve().parents)
    return owner if reachable else "root"
