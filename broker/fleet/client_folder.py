"""The folder of one member: certificate, key where it was made here, authority, and options for every command."""

from pathlib import Path

from mpsl import strict_json
from mpsl.errors import DiskError
from mpsl.identity.fleet_member import FleetMember
from mpsl.whole_file import PRIVATE, write_whole

AGENT, CA, CERT, KEY, PASSWORD = "agent.toml", "ca.pem", "cert.pem", "key.pem", "password"
_COMMANDS = {
    "device": "mpsl device --config agent.toml --data shard.npz",
    "node": "mpsl node --config agent.toml",
    "orchestrator": "mpsl train job.toml --out out --config agent.toml",
    "viewer": "mpsl tap --config agent.toml",
}


def write_client(folder: Path, member: FleetMember, url: str, ca: bytes, cert: bytes, key: bytes | None) -> None:
    """Write a member's folder, which only its owner can enter; without a key where that stayed on the device."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{folder}: cannot be made: {error.strerror or error}") from None
    write_certificate(folder, cert, key)
    write_whole(folder / CA, ca)
    write_whole(folder / AGENT, agent_options(member, url))


def write_certificate(folder: Path, cert: bytes, key: bytes | None) -> None:
    """Write a member's certificate, and its key where that is a new one. Who reads both in between tries again."""
    if key is not None:
        write_whole(folder / KEY, key, PRIVATE)
    write_whole(folder / CERT, cert)


def agent_options(member: FleetMember, url: str, password: str | None = None) -> str:
    """The text of agent.toml; `password`: the name of a file with one."""
    values = {"broker": url, "net": member.net, "id": member.id, "ca": CA, "cert": CERT, "key": KEY}
    values |= {"password-file": password} if password else {}
    lines = [f"{name} = {strict_json.dumps(value)}" for name, value in values.items()]
    about = f"# The {member.role} {member.id}: `{_COMMANDS[member.role]}`. File names are relative to this file."
    return "\n".join([about, *lines, ""])
