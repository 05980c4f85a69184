"""Describes how to start a broker: command, configuration on stdin, and port. It must never start anything."""

import socket
from dataclasses import dataclass

from mpsl.errors import BrokerError, UsageError


@dataclass(frozen=True)
class Launch:
    """How to start one broker: `command` with its absolute program first, `configuration` on its stdin."""

    command: tuple[str, ...]
    configuration: str
    user: str = ""
    """The user to run as; empty for the present one."""
    answers_connect: bool = True
    """False if a plain MQTT CONNECT gets no answer (TLS); then an accepted connection is proof enough."""


def reserve(host: str, port: int) -> socket.socket:
    """Bind `host`:`port` (0 takes a free one; host "" is every interface) without listening, and return the socket.

    While it is open, no other process is given the port, and the broker can still listen there: Linux lets two sockets
    with SO_REUSEADDR share an address as long as one of them listens. Raises BrokerError when the port is taken.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"port {port}: a port is 1 to 65535, or 0 for a free one")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"host {host!r} is not known here: {error.strerror}") from None
    reservation = socket.socket(family, kind, protocol)
    try:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(address)
    except OSError as error:
        reservation.close()
        raise BrokerError(
            f"cannot listen on {host or '*'}:{port}: {error.strerror}; stop what uses the port, or choose another one"
        ) from None
    return reservation
