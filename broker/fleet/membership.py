"""How members come, go on, and go: add, approve, renew, revoke. Each checks everything before it writes anything.

The caller holds the folder's lock (`FleetFolder.changing`). `now`: seconds since 1970.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker.fleet import client_folder
from broker.fleet.fleet_folder import AUTHORITY_DAYS, REVOKED, FleetFolder, new_key
from broker.fleet.fleet_register import FleetRegister
from broker.own_certificate import DAY_S
from mpsl.errors import DiskError, IdentityError, UsageError
from mpsl.identity.authority import Authority, key_pem, public_bytes, read_request
from mpsl.identity.certificate import read_certificate, shown
from mpsl.identity.fleet_member import FleetMember


def add(folder: FleetFolder, ids: Sequence[str], role: str, days: int, now: float) -> list[FleetMember]:
    """Enrol new members, all or none, each with a key made here. Raises UsageError where one cannot be."""
    authority, register = folder.authority(), folder.register()
    members = [register.member(id, role) for id in ids]
    twice = next((member.id for number, member in enumerate(members) if member in members[:number]), None)
    if twice is not None:
        raise UsageError(f"id {twice!r} is named twice")
    for member in members:
        _check_free(folder, register, member)
    ends = _end(authority, days, now)
    made: list[Path] = []
    try:
        for member in members:
            key = new_key()
            made.append(folder.client(member.id))
            pem, register = _certificate(authority, register, member, key.public_key(), ends)
            _write_client(folder, register, member, pem, key_pem(key))
        folder.write(authority, register, now)
    except DiskError:
        for path in made:
            shutil.rmtree(path, ignore_errors=True)
        raise
    return members


def approve(folder: FleetFolder, request: Path, days: int, now: float) -> tuple[FleetMember, ec.EllipticCurvePublicKey]:
    """Enrol whoever made a request, with its own key; or renew it where that key is a member's already.

    Raises UsageError where the request is damaged, of another net, or of an id that has another key.
    """
    authority, register = folder.authority(), folder.register()
    try:
        asked, key = read_request(request.read_bytes())
    except OSError as error:
        raise UsageError(f"{request}: {error.strerror or error}") from None
    except IdentityError as error:
        raise UsageError(f"{request}: {error}; make it again: `mpsl fleet request`") from None
    if asked.net != register.net:
        raise UsageError(f"{request}: asks for the net {asked.net}; this fleet is {register.net}")
    present = register.members.get(asked.id)
    if present is None:
        _check_free(folder, register, asked)
    elif present.role != asked.role or _public_key(folder, asked.id) != public_bytes(key):
        raise UsageError(
            f"{request}: the {present.role} {asked.id} is a member with another key; if this is the same one with a "
            f"new key, first `mpsl fleet revoke {asked.id}`"
        )
    pem, register = _certificate(authority, register, asked, key, _end(authority, days, now))
    _write_client(folder, register, asked, pem, None)
    folder.write(authority, register, now)
    return asked, key


def renew(folder: FleetFolder, ids: Sequence[str], days: int, with_new_key: bool, now: float) -> list[FleetMember]:
    """Give members certificates with a later end; with a new key, the certificates of the old one are revoked."""
    authority, register = folder.authority(), folder.register()
    members = [_known(register, id) for id in ids]
    ends = _end(authority, days, now)
    keys = {}
    for member in members:
        if with_new_key and not (folder.client(member.id) / client_folder.KEY).exists():
            raise UsageError(
                f"--new-key: the key of {member.id} was made on its own machine; revoke {member.id}, delete that key, "
                "and there `mpsl fleet request` makes a new one"
            )
        keys[member.id] = new_key() if with_new_key else _own_key(folder, member.id)
    for member in members:
        key = keys[member.id]
        private = key if isinstance(key, ec.EllipticCurvePrivateKey) else None
        public = private.public_key() if private is not None else key
        assert isinstance(public, ec.EllipticCurvePublicKey)
        if private is not None:
            register = register.with_revoked(member.id, int(now))
        pem, register = _certificate(authority, register, member, public, ends)
        client_folder.write_certificate(folder.client(member.id), pem, None if private is None else key_pem(private))
    folder.write(authority, register, now)
    return members


def renew_broker(folder: FleetFolder, hosts: Sequence[str], now: float) -> FleetRegister:
    """Give the broker a new key and certificate, for its names so far and for `hosts`."""
    authority, register = folder.authority(), folder.register()
    ends = min(now + AUTHORITY_DAYS * DAY_S, authority.certificate.end)
    register = replace(register, hosts=tuple(dict.fromkeys([*register.hosts, *hosts])))
    register = folder.serve(authority, register, ends)
    folder.write(authority, register, now)
    return register


def revoke(folder: FleetFolder, ids: Sequence[str], now: float) -> list[FleetMember]:
    """End memberships: the certificates go onto the revocation list, the client folders to `revoked/`."""
    authority, register = folder.authority(), folder.register()
    members = [_known(register, id) for id in dict.fromkeys(ids)]
    serials = {member.id: register.members[member.id].serials[-1] for member in members}
    for member in members:
        register = register.without(member.id, int(now))
    folder.write(authority, register, now)
    kept = folder.path / REVOKED
    try:
        kept.mkdir(mode=0o700, exist_ok=True)
        for id, serial in serials.items():
            if folder.client(id).exists():
                folder.client(id).rename(kept / f"{id}-{serial[:8]}")
    except OSError as error:
        raise DiskError(
            f"{error.filename or kept}: {error.strerror or error}; the members are revoked, move their folders away"
        ) from None
    return members


def _known(register: FleetRegister, id: str) -> FleetMember:
    if id not in register.members:
        gone = next((each for each in register.revoked if each.id == id), None)
        since = f"; it was revoked on {shown(gone.at)}" if gone else ""
        raise UsageError(f"id {id!r} is no member of this fleet{since}; `mpsl fleet list` shows all")
    return register.member(id, register.members[id].role)


def _check_free(folder: FleetFolder, register: FleetRegister, member: FleetMember) -> None:
    if member.id in register.members:
        raise UsageError(
            f"id {member.id!r} is taken by a {register.members[member.id].role} of this fleet; "
            "choose another, or `mpsl fleet renew` it"
        )
    if folder.client(member.id).exists():
        raise UsageError(f"{folder.client(member.id)}: is there already, and of no member; move it away")


def _end(authority: Authority, days: int, now: float) -> float:
    ends = now + days * DAY_S
    if ends > authority.certificate.end:
        left = int((authority.certificate.end - now) // DAY_S)
        raise UsageError(
            f"--days {days}: the authority of this fleet ends on {shown(authority.certificate.end)}; at most {left}"
        )
    return ends


def _certificate(
    authority: Authority, register: FleetRegister, member: FleetMember, key: ec.EllipticCurvePublicKey, ends: float
) -> tuple[bytes, FleetRegister]:
    """A new certificate, and the register that knows of it."""
    serial = x509.random_serial_number()
    pem = authority.for_member(member, key, serial, ends)
    return pem, register.with_certificate(member.id, member.role, serial, ends)


def _write_client(
    folder: FleetFolder, register: FleetRegister, member: FleetMember, pem: bytes, key: bytes | None
) -> None:
    client_folder.write_client(folder.client(member.id), member, register.url, folder.ca(), pem, key)


def _own_key(folder: FleetFolder, id: str) -> ec.EllipticCurvePublicKey:
    """The public key in a member's present certificate."""
    path = folder.client(id) / client_folder.CERT
    try:
        key = read_certificate(path.read_bytes()).parsed.public_key()
        public_bytes(key)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; restore it, or revoke {id} and add it again") from None
    except IdentityError as error:
        raise UsageError(f"{path}: {error}; restore it, or revoke {id} and add it again") from None
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def _public_key(folder: FleetFolder, id: str) -> bytes:
    return public_bytes(_own_key(folder, id))
