"""The folder of a fleet: made once, read and written as a whole; and its authority, whose key only this module opens.

One process at a time changes a folder. The register is written first, and the broker's files are always made from it.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker.fleet import broker_files
from broker.fleet.fleet_register import REGISTER, FleetRegister
from broker.own_certificate import DAY_S
from mpsl.errors import DiskError, IdentityError, UsageError
from mpsl.identity.authority import Authority, key_pem, new_authority, read_authority, read_key
from mpsl.identity.certificate import Certificate, read_certificate
from mpsl.whole_file import PRIVATE, write_whole

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
        register = self.serve(authority, FleetRegister(net, tuple(hosts), port, path), ends)
        write_whole(self.path / CA_KEY, key_pem(key), PRIVATE)
        write_whole(self.path / CA_CERT, pem)
        broker_files.put_file(self.broker, broker_files.CA, pem)
        user = broker_files.user_for(self.broker)
        broker_files.put_file(self.broker, broker_files.CONF, broker_files.configuration(path, port, user))
        self.write(authority, register, now)
        return authority.certificate

    def serve(self, authority: Authority, register: FleetRegister, ends: float) -> FleetRegister:
        """Give the broker a new key and certificate; returns the register that knows of it."""
        key = new_key()
        pem = authority.for_server(register.hosts, key.public_key(), x509.random_serial_number(), ends)
        broker_files.put_file(self.broker, broker_files.SERVER_KEY, key_pem(key))
        broker_files.put_file(self.broker, broker_files.SERVER_CERT, pem)
        return replace(register, server_ends=int(ends))

    def register(self) -> FleetRegister:
        """What the folder remembers."""
        return FleetRegister.read(self.path)

    def ca(self) -> bytes:
        """The authority's certificate, as PEM. Raises UsageError where it is not here, or damaged."""
        return self._read(CA_CERT)[0]

    def authority(self) -> Authority:
        """The authority with its key. Raises UsageError where that is not here, or damaged."""
        (certificate, _), (key, _) = self._read(CA_CERT), self._read(CA_KEY)
        try:
            return read_authority(certificate, key)
        except IdentityError as error:
            raise UsageError(f"{self.path}: {error}; restore {CA_CERT} and {CA_KEY} from a backup") from None

    def _read(self, name: str) -> tuple[bytes, object]:
        """A file of the authority, and what it holds."""
        path = self.path / name
        try:
            content = path.read_bytes()
            return content, read_key(content) if name == CA_KEY else read_certificate(content)
        except OSError as error:
            raise UsageError(
                f"{path}: {error.strerror or error}; this needs the authority of the fleet: use the folder that "
                "`mpsl fleet init` made, or a backup of it"
            ) from None
        except IdentityError as error:
            raise UsageError(f"{path}: {error}; restore it from a backup") from None

    def write(self, authority: Authority, register: FleetRegister, now: float) -> None:
        """Write the register, and the broker's files that follow from it.

        A revocation list states a time before now, for brokers whose clock is late: they would refuse everyone. Each
        states a later one than the list before, for OpenSSL goes by the newest.
        """
        register = replace(register, listed_at=max(int(now) - CLOCK_SKEW_S, register.listed_at + 1))
        register.write(self.path)
        revoked = {int(each.serial, 16): float(each.at) for each in register.revoked}
        pem = authority.revocation_list(revoked, register.listed_at)
        broker_files.put_file(self.broker, broker_files.REVOKED, pem)
        broker_files.put_file(self.broker, broker_files.ACCESS, broker_files.access_list(register.everyone()))
