"""What a fleet's folder remembers: its net and broker, its members and their certificates, and what was revoked.

It holds nothing secret. The file is `fleet.json`; only this module reads and writes it.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from mpsl import facts, strict_json
from mpsl.errors import UsageError
from mpsl.identity.fleet_member import FleetMember, Role, check_member
from mpsl.text_file import read_json
from mpsl.whole_file import write_whole

REGISTER = "fleet.json"


@dataclass(frozen=True)
class Enrolment:
    """A member's role, the end of its present certificate in seconds since 1970, and the numbers of all, in hex.

    Those before the present one may still be valid, so they are revoked with it.
    """

    role: Role
    ends: int
    serials: tuple[str, ...]


@dataclass(frozen=True)
class Revocation:
    """A certificate that counts no more, whose it was, and since when, in seconds since 1970."""

    serial: str
    id: str
    at: int


@dataclass(frozen=True)
class FleetRegister:
    """All of it. `hosts` are the broker's names, the first of them the one that members connect to."""

    net: str
    hosts: tuple[str, ...]
    port: int
    broker_path: str
    """Where the folder `broker` lies on the broker's machine."""
    server_ends: int = 0
    """The end of the broker's own certificate, in seconds since 1970."""
    members: dict[str, Enrolment] = field(default_factory=dict)
    revoked: tuple[Revocation, ...] = ()
    listed_at: int = 0
    """The time that the newest revocation list states."""

    @classmethod
    def read(cls, folder: Path) -> "FleetRegister":
        """The register in a fleet's folder; raises UsageError where there is none, or a damaged one."""
        path = folder / REGISTER
        if not path.exists():
            raise UsageError(f"--dir {folder}: holds no fleet ({REGISTER}); `mpsl fleet init --dir {folder}` makes one")
        found = facts.read(cls, read_json(path), str(path))
        if not found.hosts:
            raise UsageError(f"{path}: hosts: names no host")
        for id, enrolment in found.members.items():
            try:
                found.member(id, enrolment.role)
                for serial in enrolment.serials:
                    int(serial, 16)
            except (UsageError, ValueError) as error:
                raise UsageError(f"{path}: members.{id}: {error}") from None
        return found

    def write(self, folder: Path) -> None:
        """Write it to the folder, whole or not at all."""
        write_whole(folder / REGISTER, strict_json.dumps(facts.plain(self), indent=1) + "\n")

    def member(self, id: str, role: str) -> FleetMember:
        """A member of this net; raises UsageError where it cannot be one."""
        return check_member(self.net, role, id)

    @property
    def url(self) -> str:
        """Where members connect to."""
        host = self.hosts[0]
        return f"mqtts://{f'[{host}]' if ':' in host else host}:{self.port}"

    def everyone(self) -> list[FleetMember]:
        """All members that are not revoked, by id."""
        return [self.member(id, self.members[id].role) for id in sorted(self.members)]

    def with_certificate(self, id: str, role: Role, serial: int, ends: float) -> "FleetRegister":
        """The same with a new member, or with a new certificate of one."""
        before = self.members[id].serials if id in self.members else ()
        enrolment = Enrolment(role, int(ends), (*before, f"{serial:x}"))
        return replace(self, members=self.members | {id: enrolment})

    def without(self, id: str, at: int) -> "FleetRegister":
        """The same without a member, all its certificates revoked."""
        left = {other: enrolment for other, enrolment in self.members.items() if other != id}
        return replace(self.with_revoked(id, at), members=left)

    def with_revoked(self, id: str, at: int) -> "FleetRegister":
        """The same with the certificates that a member has had so far revoked."""
        gone = [Revocation(serial, id, at) for serial in self.members[id].serials]
        members = self.members | {id: replace(self.members[id], serials=())}
        return replace(self, members=members, revoked=(*self.revoked, *gone))
