"""What a certificate says, and whether it can be believed at a given time.

This is the one place that decides that. It must never trust what it has not checked: the signature of the fleet's
authority comes first, then the dates, revocation, and the member.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from mpsl.errors import IdentityError
from mpsl.identity.fleet_member import FleetMember, Role, read_uri

MAX_PEM_BYTES = 65536
"""No certificate, request or revocation list of a member is larger; more is not parsed."""


@dataclass(frozen=True)
class Certificate:
    """A parsed certificate; `member` is None where it states no member of a fleet (the authority, a server)."""

    parsed: x509.Certificate
    member: FleetMember | None

    @property
    def begin(self) -> float:
        """From when it is valid, in seconds since 1970."""
        return self.parsed.not_valid_before_utc.timestamp()

    @property
    def end(self) -> float:
        """Until when it is valid, in seconds since 1970."""
        return self.parsed.not_valid_after_utc.timestamp()

    @property
    def serial(self) -> int:
        """Its number; the authority gives each only once."""
        return self.parsed.serial_number

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole certificate, as people compare it."""
        return grouped(self.parsed.fingerprint(hashes.SHA256()))


def grouped(digest: bytes) -> str:
    """A digest as pairs of hex digits with colons, as openssl shows it."""
    return digest.hex(":").upper()


def read_certificate(pem: bytes) -> Certificate:
    """The first certificate of a PEM text. Raises IdentityError where there is none, or its names are no member's."""
    if len(pem) > MAX_PEM_BYTES:
        raise IdentityError(f"has {len(pem):,} bytes; a certificate has at most {MAX_PEM_BYTES:,}")
    try:
        parsed = x509.load_pem_x509_certificate(pem)
        names = _uris(parsed)
        # Dates and number are read here, so that a certificate that was read can be asked for them.
        _ = (parsed.not_valid_before_utc, parsed.not_valid_after_utc, parsed.serial_number, parsed.public_key())
    except Exception as error:
        # The library's parser raises many kinds, ValueError most often; each means that this is no certificate.
        raise IdentityError(f"holds no certificate that can be read ({type(error).__name__}: {error})") from None
    if not names:
        return Certificate(parsed, None)
    if len(names) > 1:
        raise IdentityError("names more than one member")
    return Certificate(parsed, read_uri(names[0]))


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def believe(
    certificate: Certificate,
    authority: Certificate,
    now: float,
    revoked: Collection[int] = (),
    role: Role | None = None,
) -> FleetMember:
    """The member that a certificate proves at `now` (seconds since 1970).

    Raises IdentityError with the reason: another authority, a damaged signature, not yet or no longer valid, revoked,
    not a member's certificate, or of another role than `role`.
    """
    try:
        certificate.parsed.verify_directly_issued_by(authority.parsed)
    except (ValueError, TypeError, InvalidSignature):
        raise IdentityError("is not signed by this fleet's authority") from None
    check_dates(certificate, now)
    if certificate.serial in revoked:
        raise IdentityError("has been revoked")
    member = certificate.member
    if member is None or not _for_clients(certificate.parsed):
        raise IdentityError("is no member's certificate")
    if role is not None and member.role != role:
        raise IdentityError(f"is that of the role {member.role}, not {role}")
    return member


def check_dates(certificate: Certificate, now: float) -> None:
    """Raise IdentityError where a certificate is not valid yet, or no longer."""
    if now < certificate.begin:
        raise IdentityError(f"is valid from {shown(certificate.begin)} on; this machine's clock says {shown(now)}")
    if now > certificate.end:
        raise IdentityError(f"was valid until {shown(certificate.end)}; this machine's clock says {shown(now)}")


def shown(at: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage and not constraints.ca


def is_p256(key: object) -> bool:
    """Whether a public key is one of the only kind that a fleet uses."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
