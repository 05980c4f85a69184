"""What the authority of a fleet signs: certificates of members and of the broker's server, and the revocation list.

Keys are P-256, signatures ECDSA with SHA-256: what every broker takes, those in the cloud too.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mpsl.errors import IdentityError
from mpsl.identity.certificate import MAX_PEM_BYTES, Certificate, grouped, is_p256, read_certificate
from mpsl.identity.fleet_member import FleetMember, read_uri

_NO_USE = dict.fromkeys(
    ("content_commitment", "key_encipherment", "data_encipherment", "encipher_only", "decipher_only"), False
)


@dataclass(frozen=True)
class Authority:
    """The authority's certificate and private key. `begin` and `end` of what it signs are seconds since 1970."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey

    def for_member(self, member: FleetMember, public_key: ec.EllipticCurvePublicKey, number: int, end: float) -> bytes:
        """A member's certificate, as PEM, valid as far back as the authority's own: a slow clock does no harm."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(member.uri)]
        subject = _name(member.role, member.id)
        return self._signed(subject, public_key, number, end, names, ExtendedKeyUsageOID.CLIENT_AUTH)

    def for_server(self, hosts: Iterable[str], public_key: ec.EllipticCurvePublicKey, number: int, end: float) -> bytes:
        """The certificate of a broker that is reached under these host names and IP numbers, as PEM."""
        names = [_host(host) for host in hosts]
        return self._signed(_name("broker", "broker"), public_key, number, end, names, ExtendedKeyUsageOID.SERVER_AUTH)

    def revocation_list(self, revoked: Mapping[int, float], at: int) -> bytes:
        """The list of revoked certificates by number, each with the time of its revocation, as PEM.

        It says that it was made `at`, which is its number, too; it must grow. It is valid as long as the authority: a
        broker with a list that has expired would refuse everyone.
        """
        builder = x509.CertificateRevocationListBuilder(
            self.certificate.parsed.subject, _at(at), self.certificate.parsed.not_valid_after_utc
        )
        for serial, since in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder(serial, _at(since)).build()
            builder = builder.add_revoked_certificate(entry)
        builder = builder.add_extension(x509.CRLNumber(at), critical=False)
        builder = builder.add_extension(self._issuer(), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _signed(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey,
        number: int,
        end: float,
        names: list[x509.GeneralName],
        usage: x509.ObjectIdentifier,
    ) -> bytes:
        builder = x509.CertificateBuilder(
            self.certificate.parsed.subject,
            subject,
            public_key,
            number,
            self.certificate.parsed.not_valid_before_utc,
            _at(end),
        )
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(True, **_NO_USE, key_agreement=False, key_cert_sign=False, crl_sign=False), True),
            (x509.ExtendedKeyUsage([usage]), False),
            (x509.SubjectAlternativeName(names), False),
            (x509.SubjectKeyIdentifier.from_public_key(public_key), False),
            (self._issuer(), False),
        ]
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issuer(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def new_authority(net: str, key: ec.EllipticCurvePrivateKey, number: int, begin: float, end: float) -> bytes:
    """The certificate of a new authority for a net, signed by itself, as PEM."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"MP-SL fleet {net}")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), number, _at(begin), _at(end))
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.KeyUsage(False, **_NO_USE, key_agreement=False, key_cert_sign=True, crl_sign=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_authority(certificate: bytes, key: bytes) -> Authority:
    """The authority of a certificate and its key, both PEM. Raises IdentityError where they do not fit together."""
    read, private = read_certificate(certificate), read_key(key)
    if public_bytes(read.parsed.public_key()) != public_bytes(private.public_key()):
        raise IdentityError("certificate and key of the authority do not belong together")
    return Authority(read, private)


def new_request(member: FleetMember, key: ec.EllipticCurvePrivateKey) -> bytes:
    """A request for a member's certificate, signed with its own key, as PEM."""
    builder = x509.CertificateSigningRequestBuilder(_name(member.role, member.id))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(member.uri)])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes) -> tuple[FleetMember, ec.EllipticCurvePublicKey]:
    """Who asks, and with which key. Raises IdentityError where the request is damaged or of no member."""
    if len(pem) > MAX_PEM_BYTES:
        raise IdentityError(f"has {len(pem):,} bytes; a request has at most {MAX_PEM_BYTES:,}")
    try:
        request = x509.load_pem_x509_csr(pem)
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        key, sound = request.public_key(), request.is_signature_valid
    except Exception as error:
        raise IdentityError(f"holds no request that can be read ({type(error).__name__}: {error})") from None
    if not sound:
        raise IdentityError("is damaged: its signature is wrong")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not is_p256(key):
        raise IdentityError("has a key that is not P-256")
    if len(names) != 1:
        raise IdentityError(f"names {len(names)} members; a request names one")
    return read_uri(names[0]), key


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key; raises IdentityError, which never repeats any of it."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except Exception as error:
        raise IdentityError(f"holds no private key that can be read ({type(error).__name__})") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise IdentityError("holds a private key that is not P-256")
    return key


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as PEM (PKCS#8), unencrypted: a service has nobody to type a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_bytes(key: object) -> bytes:
    """A public key as DER, to compare it."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the key is not P-256")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key, as people compare it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public_bytes(key))
    return grouped(digest.finalize())


def _name(role: str, id: str) -> x509.Name:
    unit = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role)
    return x509.Name([unit, x509.NameAttribute(NameOID.COMMON_NAME, id)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)
