"""Which steps inside paho we rely on, and whether they are what they were when that was verified.

Everything that we call of paho is public, but for one step: paho makes its socket in `_create_socket`, and ours
gives it one that is open already. That works for as long as paho drives its socket as in the releases named here. On
any other one our client leaves that step alone and goes on through public calls only: slower, with the same results.
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
"""How paho opens, drives and closes its socket, and what it takes for a sign of life."""
VERIFIED = {"2.2.0": "46f2357284d4a0c2"}
"""By release, the digest of the source of all steps. `make check` says when the installed one is another."""


def digest() -> str:
    """The SHA-256 of the source of all steps of the installed paho, short; raises AttributeError or OSError."""
    sources = [inspect.getsource(getattr(Client, step)) for step in STEPS]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def unverified() -> str | None:
    """None where the installed paho is as verified; else why not, in words."""
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
