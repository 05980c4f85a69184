"""Explains a failed connection: the cause in words, and a guess if the other end gives no reason.

Every branch returns a text that is not empty and fits behind "no connection to broker …:".
"""

import socket
import ssl
import time

from broker.address import BrokerAddress
from broker.own_certificate import certificate_problem

_ALERTS = {
    "CERTIFICATE_EXPIRED": "it has expired; `mpsl fleet renew ID` makes a new one",
    "CERTIFICATE_REVOKED": "it has been revoked; `mpsl fleet add` or `approve` makes another member",
    "UNKNOWN_CA": "another authority has signed it than the one that the broker trusts; is it of this fleet?",
    "BAD_CERTIFICATE": "it is damaged, or not for clients",
    "UNSUPPORTED_CERTIFICATE": "it is not for clients",
}
"""What the other end says of our certificate (RFC 8446, section 6.2), and what helps."""
_CLOCK_CODES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""
_CLOSED = "the other end closed the connection without an answer"


def explained(error: BaseException, address: BrokerAddress, patience_s: float, reached: bool) -> str:
    """Explain a failed connection. `reached`: the other end had accepted it before it failed."""
    if isinstance(error, socket.gaierror):
        return f"the name {address.host!r} is not known here ({error.strerror}); check the host in --broker"
    if isinstance(error, ssl.SSLError):
        return _of_tls(error, address)
    if isinstance(error, TimeoutError):
        if reached:
            return f"it accepted the connection and did not answer for {patience_s:.3g} s; {_guess(address)}"
        where = f"is the host up, and does a firewall drop port {address.port}?"
        return f"no answer for {patience_s:.3g} s{_said(error)}; {where}"
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused{_said(error)}; no broker listens there: is it running, at this host and port?"
    if isinstance(error, ConnectionAbortedError):
        return f"{_text(error)}; {_guess(address)}"
    if isinstance(error, ConnectionError):
        return f"{_CLOSED}{_said(error)}; {_guess(address)}"
    return f"{_text(error)}"


def _of_tls(error: ssl.SSLError, address: BrokerAddress) -> str:
    reason = (error.reason or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _CLOCK_CODES:
        now = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return f"{_text(error)}; renew the broker's certificate, or set the clock of this machine, which says {now} UTC"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{_text(error)}; name the certificate's authority with --ca, and the host as in the certificate"
    if "WRONG_VERSION" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER" in reason or "PACKET_LENGTH" in reason:
        return f"port {address.port} does not speak TLS ({_text(error)}); try mqtt:// there, or another port"
    refusal = next((words for alert, words in _ALERTS.items() if alert in reason), None)
    if refusal is not None:
        return f"the broker refuses our certificate ({_text(error)}): {refusal}"
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "ALERT" in reason:
        return f"the broker refuses TLS ({_text(error)}); it may want a client certificate: --cert and --key"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return f"{_CLOSED} ({_text(error)}); {_guess(address)}"
    return f"TLS fails: {_text(error)}"


def _guess(address: BrokerAddress) -> str:
    """List possible reasons for silence, because most brokers give none."""
    causes = ["it may not speak TLS (mqtt://)"] if address.tls else ["the port may want TLS (mqtts://)"]
    if address.tls and not address.cert:
        causes.append("it may want a client certificate (--cert, --key)")
    elif address.tls and address.cert:
        problem = certificate_problem(address.cert, address.ca, time.time())
        if problem:
            return f"our certificate {address.cert} {problem}"
        causes.append("our certificate may have been revoked (`mpsl fleet list`)")
    if address.version == "5":
        causes.append("it may speak 3.1.1 only (--mqtt 3.1.1)")
    else:
        causes.append("it may speak MQTT 5 only (--mqtt 5)")
    return "; ".join([*causes, "it may be full, or not an MQTT broker"])


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return f" ({text})" if text else ""


def _text(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__
