"""The way to the broker, as far as MQTT: its name, its port, and TLS."""

import asyncio
import contextlib
import ssl
import time

from broker.address import BrokerAddress
from broker.connect_errors import explained
from broker.dialing import SocketAddress, dial, resolve, secure
from broker.doctor.finding import COPY_AGAIN, Finding, explained_problem, ok, problem, skipped
from broker.own_certificate import DAY_S, WARNING_DAYS
from mpsl.errors import UsageError
from mpsl.identity.certificate import shown

PATIENCE_S = 5.0
ALERT_S = 0.5
"""How long after the handshake a broker may take to refuse our certificate: over TLS 1.3 it says so then."""
CHECKS = ("name", "TCP", "TLS")


async def check_path(address: BrokerAddress) -> list[Finding]:
    """Check name, TCP and TLS; what depends on a check that failed is skipped."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            addresses = await resolve(address.host, address.port)
    except (OSError, TimeoutError) as error:
        findings.append(_failed("name", f"{address.host} is unknown", error, address))
        return findings + [skipped(check, "needs the name") for check in CHECKS[1:]]
    findings.append(ok("name", f"{address.host} is {', '.join(map(str, addresses))}"))
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE_S):
            raw, reached = await dial(addresses)
    except (OSError, TimeoutError) as error:
        findings.append(_failed("TCP", f"no connection to port {address.port}", error, address))
        return [*findings, skipped("TLS", "needs TCP")]
    findings.append(ok("TCP", f"{reached} answers in {1e3 * (time.perf_counter() - begun):.1f} ms"))
    if not address.tls:
        raw.close()
        return [*findings, _plain(address)]
    try:
        context = address.context()
    except UsageError as error:
        raw.close()
        return [*findings, explained_problem("TLS", "the files cannot be used", str(error), COPY_AGAIN)]
    assert context is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            secured = await secure(raw, context, address.host)
        with contextlib.closing(secured):
            await _alert(secured)
            findings.append(_encrypted(secured))
    except (OSError, TimeoutError) as error:
        findings.append(_failed("TLS", "no encrypted connection", error, address, reached))
    return findings


def _failed(
    check: str, text: str, error: Exception, address: BrokerAddress, reached: SocketAddress | None = None
) -> Finding:
    return explained_problem(
        check, text, explained(error, address, PATIENCE_S, reached is not None), "ask whoever runs it"
    )


def _plain(address: BrokerAddress) -> Finding:
    if address.stays_here:
        return ok("TLS", "not used: the broker is on this machine")
    remedy = "use mqtts://, with the certificates that `mpsl fleet` makes"
    return problem("TLS", "not used", "everyone on the way can read and change what is sent (--insecure)", remedy)


async def _alert(secured: ssl.SSLSocket) -> None:
    """Give the broker the time to refuse our certificate. Raises ssl.SSLError where it does."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + ALERT_S
    while loop.time() < deadline:
        try:
            if secured.recv(1) == b"":
                raise ssl.SSLEOFError(8, "closed")
            return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            await asyncio.sleep(0.02)


def _encrypted(secured: ssl.SSLSocket) -> Finding:
    """What was agreed, and until when the broker's certificate counts."""
    certificate = secured.getpeercert() or {}
    ends = float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))
    days = (ends - time.time()) / DAY_S
    if days < WARNING_DAYS:
        cause = f"the broker's certificate ends on {shown(ends)}, in {days:.0f} days"
        return problem("TLS", "works, and soon does not", cause, "on the authority's machine: mpsl fleet renew broker")
    return ok("TLS", f"{secured.version()}; the broker's certificate is valid until {shown(ends)}")
