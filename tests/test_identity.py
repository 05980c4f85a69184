"""Certificates: who they name, when they count, and what is not believed."""

import base64
import contextlib
import datetime
from collections.abc import Callable

import pytest
from authorities import DAY_S, NOW, a_certificate, an_authority, new_key
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from mpsl.errors import IdentityError, UsageError
from mpsl.identity.authority import Authority, key_pem, new_request, read_authority, read_key, read_request
from mpsl.identity.certificate import Certificate, believe, read_certificate
from mpsl.identity.fleet_member import ROLES, FleetMember, check_member, read_uri

DEVICE = FleetMember("main", "device", "dev-1")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return an_authority()


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_proves_net_role_and_id(authority: Authority, role: str) -> None:
    member = check_member("main", role, "one")
    certificate = a_certificate(authority, member)
    assert believe(certificate, authority.certificate, NOW) == member
    assert believe(certificate, authority.certificate, NOW, role=member.role) == member
    subject = certificate.parsed.subject
    assert [name.value for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["one"]
    assert [name.value for name in subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)] == [role]


def test_keys_are_p256() -> None:
    key = new_key()
    assert read_key(key_pem(key)).curve.name == "secp256r1"
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(IdentityError, match="not P-256"):
        read_key(pem)


def test_the_dates_count(authority: Authority) -> None:
    certificate = a_certificate(authority, DEVICE, days=10)
    for at in (NOW - DAY_S, NOW, NOW + 10 * DAY_S):
        assert believe(certificate, authority.certificate, at) == DEVICE
    with pytest.raises(IdentityError, match=r"was valid until 2027-01-25 08:00 UTC; this machine's clock says"):
        believe(certificate, authority.certificate, NOW + 10 * DAY_S + 1)
    with pytest.raises(IdentityError, match=r"is valid from 2027-01-14 08:00 UTC on; this machine's clock says"):
        believe(certificate, authority.certificate, NOW - DAY_S - 1)


def test_a_revoked_certificate_is_not_believed(authority: Authority) -> None:
    certificate, other = a_certificate(authority, DEVICE), a_certificate(authority, DEVICE)
    assert believe(certificate, authority.certificate, NOW, {other.serial}) == DEVICE
    with pytest.raises(IdentityError, match="has been revoked"):
        believe(certificate, authority.certificate, NOW, {certificate.serial})
    parsed = x509.load_pem_x509_crl(authority.revocation_list({certificate.serial: NOW}, int(NOW)))
    assert parsed.is_signature_valid(authority.key.public_key())
    assert [entry.serial_number for entry in parsed] == [certificate.serial]
    assert parsed.next_update_utc == authority.certificate.parsed.not_valid_after_utc


def test_another_authority_of_the_same_name_is_not_believed(authority: Authority) -> None:
    certificate = a_certificate(an_authority(), DEVICE)
    with pytest.raises(IdentityError, match="not signed by this fleet's authority"):
        believe(certificate, authority.certificate, NOW)


def test_a_member_is_no_authority(authority: Authority) -> None:
    """Its key signs a certificate of an orchestrator; nothing of it is believed."""
    key = new_key()
    pem = authority.for_member(DEVICE, key.public_key(), 7, NOW + DAY_S)
    forger = Authority(read_certificate(pem), key)
    forged = a_certificate(forger, FleetMember("main", "orchestrator", "orch"), days=1)
    with pytest.raises(IdentityError, match="not signed by this fleet's authority"):
        believe(forged, authority.certificate, NOW)


def test_the_role_counts(authority: Authority) -> None:
    certificate = a_certificate(authority, DEVICE)
    with pytest.raises(IdentityError, match="is that of the role device, not orchestrator"):
        believe(certificate, authority.certificate, NOW, role="orchestrator")


def test_the_brokers_certificate_makes_no_member(authority: Authority) -> None:
    pem = authority.for_server(["broker.example", "10.0.0.1", "::1"], new_key().public_key(), 9, NOW + DAY_S)
    certificate = read_certificate(pem)
    names = certificate.parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.1", "::1"]
    for other in (certificate, authority.certificate):
        with pytest.raises(IdentityError, match="is no member's certificate"):
            believe(other, authority.certificate, NOW)


def test_damage_anywhere_is_noticed(authority: Authority) -> None:
    """Each byte of the certificate in turn: no damaged one is believed to be another member, or at another time."""
    certificate = a_certificate(authority, DEVICE)
    der = certificate.parsed.public_bytes(serialization.Encoding.DER)
    believed = 0
    for place in range(len(der)):
        changed = bytearray(der)
        changed[place] ^= 0x41
        pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(changed) + b"-----END CERTIFICATE-----\n"
        try:
            believe(read_certificate(pem), authority.certificate, NOW)
        except IdentityError:
            continue
        believed += 1
    assert believed == 0


def signed_with(
    change: Callable[[x509.CertificateBuilder], x509.CertificateBuilder], authority: Authority
) -> Certificate:
    """A certificate that the authority has signed, but that `mpsl fleet` would never make."""
    at = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = x509.CertificateBuilder(
        authority.certificate.parsed.subject, x509.Name([]), new_key().public_key(), 5, at, at + datetime.timedelta(9)
    )
    pem = change(builder).sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return read_certificate(pem)


def test_usage_and_names_count_also_under_a_valid_signature(authority: Authority) -> None:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE.uri)])
    client = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    leaf, another_ca = x509.BasicConstraints(False, None), x509.BasicConstraints(True, None)
    good = signed_with(
        lambda b: b.add_extension(name, False).add_extension(client, False).add_extension(leaf, True), authority
    )
    assert believe(good, authority.certificate, NOW) == DEVICE
    for extensions in ((name, leaf), (name, client), (name, client, another_ca), (client, leaf)):

        def add(
            builder: x509.CertificateBuilder, extensions: tuple[x509.ExtensionType, ...] = extensions
        ) -> x509.CertificateBuilder:
            for extension in extensions:
                builder = builder.add_extension(extension, False)
            return builder

        with pytest.raises(IdentityError, match="is no member's certificate"):
            believe(signed_with(add, authority), authority.certificate, NOW)
    both = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in (DEVICE.uri, DEVICE.uri)])
    with pytest.raises(IdentityError, match="more than one member"):
        signed_with(lambda b: b.add_extension(both, False), authority)


@pytest.mark.parametrize(
    "uri",
    [
        "", "urn:mpsl:", "urn:mpsl:main:device", "urn:mpsl:main:device:dev-1:x", "urn:mpsl:main:king:dev-1",
        "urn:mpsl:Main:device:dev-1", "urn:mpsl:main:device:", "urn:mpsl:main:device:a/b", "urn:mpsl:+:device:dev-1",
        "urn:mpsl:main:device:#", "urn:mpsl:main:device:orch", "urn:mpsl:main:device:broker", "https://main/device/a",
    ],
)  # fmt: skip
def test_what_names_no_member(uri: str) -> None:
    with pytest.raises(IdentityError, match="names no member of a fleet"):
        read_uri(uri)


@given(st.text())
def test_any_text_is_a_member_or_an_error(text: str) -> None:
    with contextlib.suppress(IdentityError):
        assert read_uri(text).uri == text


def test_an_orchestrator_may_be_called_orch() -> None:
    assert check_member("main", "orchestrator", "orch").id == "orch"
    with pytest.raises(UsageError, match="reserved"):
        check_member("main", "node", "orch")


# Requests, keys, authorities


def test_a_request_says_who_asks_with_which_key() -> None:
    key = new_key()
    member, public = read_request(new_request(DEVICE, key))
    assert member == DEVICE
    assert public.public_numbers() == key.public_key().public_numbers()


def test_a_request_that_was_changed_is_refused() -> None:
    der = x509.load_pem_x509_csr(new_request(DEVICE, new_key())).public_bytes(serialization.Encoding.DER)
    place = der.index(b"device:dev-1")
    changed = der[:place] + b"device:dev-2" + der[place + 12 :]
    pem = x509.load_der_x509_csr(changed).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="its signature is wrong"):
        read_request(pem)


def test_a_request_with_another_kind_of_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DEVICE.uri)])
    request = (
        x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, False).sign(key, hashes.SHA256())
    )
    with pytest.raises(IdentityError, match="not P-256"):
        read_request(request.public_bytes(serialization.Encoding.PEM))


def test_an_authority_needs_its_own_key(authority: Authority) -> None:
    pem = authority.certificate.parsed.public_bytes(serialization.Encoding.PEM)
    with pytest.raises(IdentityError, match="do not belong together"):
        read_authority(pem, key_pem(new_key()))


@given(st.binary(max_size=600))
def test_garbage_is_an_error_in_words(garbage: bytes) -> None:
    for read in (read_certificate, read_request, read_key):
        for content in (garbage, b"-----BEGIN CERTIFICATE-----\n" + garbage + b"\n-----END CERTIFICATE-----\n"):
            with pytest.raises(IdentityError, match="that can be read"):
                read(content)


def test_a_file_without_end_is_not_parsed() -> None:
    for read in (read_certificate, read_request):
        with pytest.raises(IdentityError, match=r"has 1,000,000 bytes"):
            read(b"-" * 1_000_000)


def test_an_error_about_a_key_repeats_nothing_of_it() -> None:
    pem = key_pem(new_key())
    secret = pem.splitlines()[1].decode()
    with pytest.raises(IdentityError) as caught:
        read_key(pem.replace(b"BEGIN PRIVATE KEY", b"BEGIN PRIVATE KEY ") + secret.encode())
    assert secret[:16] not in str(caught.value)
