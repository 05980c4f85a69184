"""The TLS context of `--ca`, `--cert` and `--key`, or why OpenSSL cannot use a file, with the command that converts it.

OpenSSL's own text for a file in the wrong format ("no start line") helps nobody. Keys are never copied or decrypted to
disk here, and nothing asks for a passphrase, because a service has no terminal.
"""

import codecs
import ssl
from collections.abc import Callable
from pathlib import Path

from mpsl.errors import UsageError

CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_CERTIFICATES = (CERTIFICATE, b"-----BEGIN TRUSTED CERTIFICATE-----", b"-----BEGIN X509 CERTIFICATE-----")


def tls_context(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """Return the context that trusts `ca` (None: the system's authorities) and presents `cert`. Raises UsageError."""
    if ca is not None:
        _check_certificates("--ca", ca)
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"--ca {ca}: {error}") from None
    if cert is None:
        return context
    _check_certificates("--cert", cert)
    if key is not None:
        _check_key(key)
    option = f"--key {key}" if key else f"--cert {cert}"
    try:
        context.load_cert_chain(cert, key, password=_no_passphrase(option, key or cert))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(_pair_problem(cert, key, error)) from None
    return context


def _read(option: str, file: str) -> bytes:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {file}: {error.strerror or error}") from None
    where = f"{option} {file}"
    if content.startswith(codecs.BOM_UTF8):
        raise UsageError(f"{where}: begins with a byte order mark; remove it: sed -i '1s/^\\xEF\\xBB\\xBF//' '{file}'")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UsageError(f"{where}: is UTF-16; convert it: iconv -f UTF-16 -t ASCII '{file}' > '{file}.pem'")
    if file.endswith((".p12", ".pfx")):
        command = f"openssl pkcs12 -in '{file}' -nodes -out '{file}.pem'"
        raise UsageError(f"{where}: is a PKCS#12 file; take certificate and key out of it: {command}")
    return content


def _check_certificates(option: str, file: str) -> None:
    content = _read(option, file)
    where = f"{option} {file}"
    if any(begin in content for begin in _CERTIFICATES):
        return
    if content[:1] == b"\x30":
        command = f"openssl x509 -inform DER -in '{file}' -out '{file}.pem'"
        raise UsageError(f"{where}: is DER, not PEM; convert it: {command}")
    if b"-----BEGIN PKCS7-----" in content:
        command = f"openssl pkcs7 -print_certs -in '{file}' -out '{file}.pem'"
        raise UsageError(f"{where}: is a PKCS#7 file; take the certificates out of it: {command}")
    if b"CERTIFICATE REQUEST-----" in content:
        raise UsageError(f"{where}: is a certificate request; the authority that signs it makes the certificate")
    if option == "--cert" and b"PRIVATE KEY-----" in content:
        raise UsageError(f"{where}: holds no certificate but a private key; is it the file for --key?")
    raise UsageError(f"{where}: holds no certificate; a PEM file has the line {CERTIFICATE.decode()}")


def _check_key(file: str) -> None:
    content = _read("--key", file)
    where = f"--key {file}"
    if b"-----BEGIN OPENSSH PRIVATE KEY-----" in content:
        raise UsageError(f"{where}: is in OpenSSH's own format; convert it: ssh-keygen -p -m PEM -f '{file}'")
    if b"PRIVATE KEY-----" in content:
        return
    if content[:1] == b"\x30":
        command = f"openssl pkey -inform DER -in '{file}' -out '{file}.pem'"
        raise UsageError(f"{where}: is DER, not PEM; convert it: {command}")
    raise UsageError(f"{where}: holds no private key; a PEM file has the line -----BEGIN PRIVATE KEY-----")


def _no_passphrase(option: str, file: str) -> Callable[[], str]:
    def refuse() -> str:
        command = f"openssl pkey -in '{file}' -out '{file}.plain' && chmod 600 '{file}.plain'"
        raise UsageError(f"{option}: the key is encrypted, and no passphrase can be asked for; decrypt it: {command}")

    return refuse


def _pair_problem(cert: str, key: str | None, error: Exception) -> str:
    """Explain why a certificate and a key that can each be read do not match."""
    where = f"--cert {cert}" + (f" --key {key}" if key else "")
    # OpenSSL calls a key of another kind than the certificate's NO_CERTIFICATE_ASSIGNED, or KEY_TYPE_MISMATCH.
    if getattr(error, "reason", "") in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"):
        if Path(cert).read_bytes().count(CERTIFICATE) > 1:
            return (
                f"{where}: the first certificate is not the key's; a chain begins with your own, then its signers: "
                "cat own.pem intermediate.pem > chain.pem"
            )
        return f"{where}: certificate and key do not match"
    if key is None:
        return f"{where}: holds no private key; name its file with --key"
    return f"{where}: {error}"
