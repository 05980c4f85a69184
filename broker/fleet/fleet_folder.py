"""Keeps the folder of a fleet: makes the authority, enrols, renews and revokes members, and rewrites what follows.

One process at a time changes it. What a step needs is checked before anything is written; the register is written
before the broker's files, which are always made from it.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker.fleet import broker_files, client_folder
from broker.fleet.fleet_register import REGISTER, Enrolment, FleetRegister
from mpsl.errors import DiskError, IdentityError, UsageError
from mpsl.identity.authority import Authority, key_pem, new_authority, read_authority, read_key
from mpsl.identity.certificate import Certificate, read_certificate, shown
from mpsl.identity.fleet_member import FleetMember
from mpsl.whole_file import PRIVATE, write_whole

DAY_S = 86400
AUTHORITY_DAYS = 3650
"""How long the authority and the broker's own certificate are valid."""
CLOCK_SKEW_S = DAY_S
"""How far back certificates are valid, for machines whose clock is late."""
CA_CERT, CA_KEY, BROKER, CLIENTS, REVOKED, LOCK = "ca.pem", "ca.key", "broker", "clients", "revoked", ".lock"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


class FleetFolder:
    """One fleet's folder. `now`: seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broker = path / BROKER

    def client(self, id: str) -> Path:
        """Where a member's folder is."""
        return self.path / CLIENTS / id

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Keep other processes from changing the folder; raises UsageError where one does so right now."""
        try:
            lock = (self.path / LOCK).open("wb")
        except OSError as error:
            raise UsageError(f"--dir {self.path}: {error.strerror or error}") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UsageError(f"--dir {self.path}: another `mpsl fleet` is changing it; try again") from None
            yield

    def create(self, net: str, hosts: Sequence[str], port: int, broker_path: str | None, now: float) -> Certificate:
        """Make the authority and the broker's files. Raises UsageError where the folder holds a fleet already."""
        existing = next((name for name in (REGISTER, CA_KEY, CA_CERT, BROKER) if (self.path / name).exists()), None)
        if existing is not None:
            raise UsageError(
                f"--dir {self.path}: holds a fleet already ({existing}); a second authority would shut out its "
                "members. Choose another folder, or move this one away"
            )
        path = broker_path or os.path.abspath(self.broker)
        if not path.isprintable() or path != path.strip():
            raise UsageError(f"{path!r}: mosquitto.conf cannot name this folder; choose one without special characters")
        key, ends = new_key(), now + AUTHORITY_DAYS * DAY_S
        pem = new_authority(net, key, x509.random_serial_number(), now - CLOCK_SKEW_S, ends)
        authority = read_authority(pem, key_pem(key))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / CLIENTS).mkdir(mode=0o700, exist_ok=True)
            broker_files.make_folder(self.broker)
        except OSError as error:
            raise DiskError(f"{self.path}: cannot be made: {error.strerror or error}") from None
        register = FleetRegister(net, tuple(hosts), port, path)
        register = self._serve(authority, register, ends)
        write_whole(self.path / CA_KEY, key_pem(key), PRIVATE)
        write_whole(self.path / CA_CERT, pem)
        broker_files.put_file(self.broker, broker_files.CA, pem)
        user = broker_files.user_for(self.broker)
        broker_files.put_file(self.broker, broker_files.CONF, broker_files.configuration(path, port, user))
        self._write(authority, register, now)
        return authority.certificate

    def _serve(self, authority: Authority, register: FleetRegister, ends: float) -> FleetRegister:
        """Give the broker a new key and certificate."""
        key = new_key()
        pem = authority.for_server(register.hosts, key.public_key(), x509.random_serial_number(), ends)
        broker_files.put_file(self.broker, broker_files.SERVER_KEY, key_pem(key))
        broker_files.put_file(self.broker, broker_files.SERVER_CERT, pem)
        return replace(register, server_ends=int(ends))

    def register(self) -> FleetRegister:
        """What the folder remembers."""
        return FleetRegister.read(self.path)

    def authority(self) -> Authority:
        """The authority with its key. Raises UsageError where that is not here, or damaged."""
        contents = []
        for name in (CA_CERT, CA_KEY):
            try:
                contents.append((self.path / name).read_bytes())
            except OSError as error:
                raise UsageError(
                    f"{self.path / name}: {error.strerror or error}; the authority of the fleet is needed for this: "
                    "use the folder that `mpsl fleet init` made, or a backup of it"
                ) from None
        try:
            read_certificate(contents[0])
            read_key(contents[1])
        except IdentityError as error:
            damaged = CA_KEY if "private key" in str(error) else CA_CERT
            raise UsageError(f"{self.path / damaged}: {error}; restore it from a backup") from None
        try:
            return read_authority(*contents)
        except IdentityError as error:
            raise UsageError(f"{self.path}: {error}; restore ca.pem and ca.key from a backup") from None

    def add(self, ids: Sequence[str], role: str, days: int, now: float) -> list[FleetMember]:
        """Enrol new members, all or none, each with a key made here. Raises UsageError where one cannot be."""
        authority, register = self.authority(), self.register()
        members = [register.member(id, role) for id in ids]
        self._check_new(register, members)
        ends = self._end(authority, days, now)
        try:
            for member in members:
                key, serial = new_key(), x509.random_serial_number()
                pem = authority.for_member(member, key.public_key(), serial, ends)
                self._write_client(authority, register, member, pem, key_pem(key))
                register = register.with_member(member.id, Enrolment(member.role, f"{serial:x}", int(ends)))
            register.write(self.path)
        except DiskError:
            for member in members:
                shutil.rmtree(self.client(member.id), ignore_errors=True)
            raise
        self._write(authority, register, now)
        return members

    def _check_new(self, register: FleetRegister, members: Sequence[FleetMember]) -> None:
        seen: set[str] = set()
        for member in members:
            if member.id in seen:
                raise UsageError(f"id {member.id!r} is named twice")
            seen.add(member.id)
            if member.id in register.members:
                role = register.members[member.id].role
                raise UsageError(
                    f"id {member.id!r} is taken by a {role} of this fleet; choose another, or `mpsl fleet renew` it"
                )
            if self.client(member.id).exists():
                raise UsageError(f"{self.client(member.id)}: is there already, of no member; move it away")

    def _end(self, authority: Authority, days: int, now: float) -> float:
        ends = now + days * DAY_S
        if ends > authority.certificate.end:
            left = int((authority.certificate.end - now) // DAY_S)
            raise UsageError(
                f"--days {days}: the authority of this fleet ends on {shown(authority.certificate.end)}; at most {left}"
            )
        return ends

    def _write_client(
        self, authority: Authority, register: FleetRegister, member: FleetMember, pem: bytes, key: bytes | None
    ) -> None:
        ca = (self.path / CA_CERT).read_bytes()
        host = register.hosts[0]
        url = f"mqtts://{f'[{host}]' if ':' in host else host}:{register.port}"
        client_folder.write_client(self.client(member.id), member, url, ca, pem, key)

    def _write(self, authority: Authority, register: FleetRegister, now: float) -> None:
        """Write the register, and the broker's files that follow from it."""
        register.write(self.path)
        revoked = {int(each.serial, 16): float(each.at) for each in register.revoked}
        pem = authority.revocation_list(revoked, len(revoked) + 1, now)
        broker_files.put_file(self.broker, broker_files.REVOKED, pem)
        broker_files.put_file(self.broker, broker_files.ACCESS, broker_files.access_list(register.everyone()))
