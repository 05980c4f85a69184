"""Brokers for tests: real processes on free ports, one of each kind a test process, ended when the tests are.

Fixtures, for every test file through conftest.py. A broker that is not installed is a failure with the command that
installs it, never a skip. Tests that need a broker of their own use `serving`.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.engines.engine import BrokerProcess, running_broker

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class SecureBroker:
    """A broker with TLS, passwords and docs/acl.example, made from the commented part of mosquitto.conf."""

    process: BrokerProcess
    ca: Path
    passwords: dict[str, str]
    """By user name, which is the id: orch, node-1, node-2, dev-1 to dev-4, watch."""

    @property
    def tls(self) -> ssl.SSLContext:
        """For aiomqtt's `tls_context`."""
        return ssl.create_default_context(cafile=str(self.ca))


@contextlib.contextmanager
def serving(engine: str, **options: Any) -> Iterator[BrokerProcess]:
    """`running_broker` for code without an event loop: the broker runs, and is listened to, in a thread of its own."""
    started: Future[tuple[BrokerProcess, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        finished = asyncio.Event()
        async with running_broker(engine, **options) as process:
            started.set_result((process, asyncio.get_running_loop(), finished))
            await finished.wait()

    with ThreadPoolExecutor(1, thread_name_prefix="broker") as pool:
        ending = pool.submit(asyncio.run, serve())
        wait([started, ending], return_when=FIRST_COMPLETED)
        if not started.done():
            ending.result()
        process, loop, finished = started.result()
        try:
            yield process
        finally:
            loop.call_soon_threadsafe(finished.set)
            ending.result()


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[BrokerProcess]:
    """mosquitto with the settings that `mpsl broker` gives it, anonymous, on a free port of loopback."""
    with serving("mosquitto") as process:
        yield process


@pytest.fixture(scope="session")
def embedded() -> Iterator[BrokerProcess]:
    """The embedded broker for MQTT 5 on a free port of loopback."""
    with serving("embedded") as process:
        yield process


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def each_broker(request: pytest.FixtureRequest) -> BrokerProcess:
    """The test runs twice: with mosquitto, and with the embedded broker."""
    process = request.getfixturevalue(request.param)
    assert isinstance(process, BrokerProcess)
    return process


@pytest.fixture(scope="session")
def secure_mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """mosquitto over TLS, with a password for everyone and the access rules of docs/acl.example."""
    directory = tmp_path_factory.mktemp("secure")
    with secure_serving(directory) as secure:
        yield secure


@contextlib.contextmanager
def secure_serving(directory: Path) -> Iterator[SecureBroker]:
    """A secure broker of one's own, its files in `directory`."""
    ca = write_certificates(directory)
    passwords = {name: f"secret of {name}" for name in ("orch", "node-1", "node-2", "watch")}
    passwords |= {f"dev-{number}": f"secret of dev-{number}" for number in range(1, 5)}
    _write_passwords(directory / "passwords", passwords)
    (directory / "acl").write_text((ROOT / "docs" / "acl.example").read_text())
    conf = directory / "mosquitto.conf"
    # root's temporary files are closed to the user that mosquitto would change to
    conf.write_text(secured(ROOT / "mosquitto.conf").replace("/etc/mosquitto", str(directory)) + "user root\n")
    with serving("mosquitto", conf=conf, host="127.0.0.1", port=0) as process:
        yield SecureBroker(process, ca, passwords)


def secured(conf: Path) -> str:
    """The text of mosquitto.conf as it says to change it for several machines."""
    lines = conf.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("listener", "allow_anonymous"))]
    return "".join(f"{line[1:] if line.startswith('#') and line[1:2].isalpha() else line}\n" for line in kept)


def _write_passwords(path: Path, passwords: dict[str, str]) -> None:
    path.write_text("".join(f"{name}:{password}\n" for name, password in passwords.items()))
    path.chmod(0o600)
    subprocess.run(["mosquitto_passwd", "-U", str(path)], check=True, capture_output=True)


def write_certificates(directory: Path) -> Path:
    """Write ca.crt, server.crt and server.key (for 127.0.0.1 and localhost, valid today); return ca.crt."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    server_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MP-SL test authority")])
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)

    def signed(name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    ca = directory / "ca.crt"
    ca.write_bytes(signed(authority_name, authority_key, x509.BasicConstraints(ca=True, path_length=None)))
    (directory / "server.crt").write_bytes(signed(server_name, server_key, x509.SubjectAlternativeName(names)))
    (directory / "server.key").write_bytes(
        server_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca
