"""Authorities, keys and certificates for tests, made in memory at a time that the test names."""

import itertools

from cryptography.hazmat.primitives.asymmetric import ec

from mpsl.identity.authority import Authority, key_pem, new_authority, read_authority
from mpsl.identity.certificate import Certificate, read_certificate
from mpsl.identity.fleet_member import FleetMember

NOW, DAY_S = 1_800_000_000.0, 86400.0
NUMBERS = itertools.count(1)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def an_authority(net: str = "main", days: float = 3650) -> Authority:
    """An authority whose validity has begun a day before NOW."""
    key = new_key()
    return read_authority(new_authority(net, key, next(NUMBERS), NOW - DAY_S, NOW + days * DAY_S), key_pem(key))


def a_certificate(authority: Authority, member: FleetMember, days: float = 365) -> Certificate:
    """A member's certificate, with a key that nobody keeps."""
    return read_certificate(authority.for_member(member, new_key().public_key(), next(NUMBERS), NOW + days * DAY_S))
