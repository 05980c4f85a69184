"""The inner steps of paho that the fast client relies on, and whether they are as verified.

The client calls only public methods of paho, except one: it replaces `_create_socket`, to pass a socket that is already
open. That works as long as paho drives its socket as in the releases below. With any other release the client leaves
that step alone and uses public calls only: slower, with the same results.
"""

import hashlib
import inspect
from importlib.metadata import version

from paho.mqtt.client import Client

STEPS = (
    "reconnect", "_create_socket", "_sock_recv", "_sock_send", "_sock_close", "_packet_read", "_packet_write",
    "_packet_queue", "_packet_handle", "_loop_rc_handle", "_call_socket_register_write", "_check_keepalive",
    "_handle_pingresp", "loop_read", "loop_write", "loop_misc", "want_write",
)  # fmt: skip
"""The steps with which paho opens, drives and closes its socket, and notices signs of life."""
VERIFIED = {"2.2.0": "46f2357284d4a0c2"}
"""By release, the digest of the source of all steps. `make check` fails if the installed release has another."""


def digest() -> str:
    """Return the short SHA-256 of the source of all steps in the installed paho. Raises AttributeError or OSError."""
    sources = [inspect.getsource(getattr(Client, step)) for step in STEPS]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def unverified() -> str | None:
    """Return None if the installed paho is as verified; else the difference, in words."""
    release = version("paho-mqtt")
    known = ", ".join(VERIFIED)
    missing = [step for step in STEPS if not hasattr(Client, step)]
    if missing:
        return f"paho-mqtt {release} has no {', '.join(missing)}; verified with {known}"
    try:
        found = digest()
    except OSError:
        return f"the source of paho-mqtt {release} cannot be read; verified with {known}"
    return None if found in VERIFIED.values() else f"paho-mqtt {release} drives its socket differently from {known}"
