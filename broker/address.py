"""The broker's address and how to talk to it, parsed from the URL and options that every command takes."""

import ipaddress
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

from broker.slow_link import LinkSpeed
from broker.tls_files import tls_context
from mpsl.errors import UsageError
from mpsl.text_file import read_text

DEFAULT_URL = "mqtt://127.0.0.1:1883"
MqttVersion = Literal["5", "3.1.1"]


@dataclass(frozen=True)
class BrokerAddress:
    """A broker: host, port, TLS or not, the user, and the MQTT version."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    version: MqttVersion = "5"
    insecure: bool = False
    """Whether a connection without TLS to another machine was asked for."""
    link: LinkSpeed | None = None
    """The emulated speed of the link to it; None: the real one."""
    alternatives: tuple["BrokerAddress", ...] = ()
    """Brokers to try, in this order, if this one does not answer."""

    @property
    def shown(self) -> str:
        """The URL for people and logs. It never contains the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    @property
    def options(self) -> list[str]:
        """Return the options for another command to use the same broker. $MPSL_PASSWORD_FILE passes the password."""
        user = "" if self.user is None else f"{quote(self.user, safe='')}@"
        found = ["--broker", self.shown.replace("://", f"://{user}", 1), "--mqtt", self.version]
        for other in self.alternatives:
            found += other.options[:2]
        found += ["--insecure"] if self.insecure else []
        for option, file in (("--ca", self.ca), ("--cert", self.cert), ("--key", self.key)):
            found += [option, file] if file else []
        return found

    @property
    def stays_here(self) -> bool:
        """Whether nothing leaves this machine on the way: the host is a name or number of loopback."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way reads what is sent: it is encrypted, or never leaves this machine."""
        return self.tls or self.stays_here

    def check_encrypted(self) -> None:
        """Raise UsageError where messages would pass a network in the clear, and nobody asked for that."""
        for broker in (self, *self.alternatives):
            if not (broker.is_private or self.insecure):
                raise UsageError(
                    f"--broker {broker.shown}: without TLS everyone on the way reads and changes what is sent; "
                    "use mqtts:// (`mpsl fleet` makes the certificates), or allow it in a network that you trust: "
                    "--insecure"
                )

    def context(self) -> ssl.SSLContext | None:
        """Return the TLS context. Raises UsageError for unusable files."""
        return tls_context(self.ca, self.cert, self.key) if self.tls else None


def parse_brokers(
    urls: Sequence[str],
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    version: MqttVersion = "5",
    environment: Mapping[str, str] = os.environ,
) -> BrokerAddress:
    """Return the first broker, with the others as its alternatives. $MPSL_BROKER may also name several."""
    texts = list(urls) or environment.get("MPSL_BROKER", "").split() or [DEFAULT_URL]
    if len(set(texts)) < len(texts):
        raise UsageError(f"--broker: {max(texts, key=texts.count)} is named twice")
    first, *others = (parse_broker(text, ca, cert, key, version, environment) for text in texts)
    return replace(first, alternatives=tuple(others))


def parse_broker(
    url: str | None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    version: MqttVersion = "5",
    environment: Mapping[str, str] = os.environ,
) -> BrokerAddress:
    """Return the broker at `url` (None: $MPSL_BROKER, else loopback), with the password in $MPSL_PASSWORD_FILE."""
    text = url or environment.get("MPSL_BROKER") or DEFAULT_URL
    form = "a broker is mqtt://[user@]host[:port], or mqtts:// with TLS"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"--broker: {error}; {form}") from None
    if parts.password is not None:
        raise UsageError(
            "--broker: put the password into a file and its path into $MPSL_PASSWORD_FILE, not on the command line"
        )
    more = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or more or port == 0:
        raise UsageError(f"--broker {text}: {form}")
    try:
        parts.hostname.encode("idna")  # as the resolver does, which raises no error of its own kind
    except UnicodeError as error:
        raise UsageError(f"--broker {text!r}: {parts.hostname!r} is no host name ({error}); {form}") from None
    tls = parts.scheme == "mqtts"
    user = None if parts.username is None else unquote(parts.username)
    if (ca or cert or key) and not tls:
        raise UsageError(f"--broker {text}: --ca, --cert and --key go with mqtts://")
    if key and not cert:
        raise UsageError("--key goes with --cert")
    return BrokerAddress(
        parts.hostname,
        port or (8883 if tls else 1883),
        tls,
        user,
        _password(user, environment.get("MPSL_PASSWORD_FILE")),
        ca,
        cert,
        key,
        version,
    )


def own_broker(url: str, version: MqttVersion = "5") -> BrokerAddress:
    """The broker at `url`, which was started here: it knows no user, whatever the environment says of passwords."""
    return parse_broker(url, version=version, environment={})


def _password(user: str | None, path: str | None) -> str | None:
    if not path:
        return None
    if user is None:
        raise UsageError("$MPSL_PASSWORD_FILE is set but the broker URL names no user: mqtt://user@host")
    where = f"$MPSL_PASSWORD_FILE = {path}"
    password = read_text(Path(path), where).strip("\n")
    if not password:
        raise UsageError(f"{where}: is empty; it must hold the password")
    if "\n" in password:
        raise UsageError(f"{where}: has {password.count(chr(10)) + 1} lines; it must hold the password alone")
    return password
