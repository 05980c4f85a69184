"""What a broker refuses, and what it says of it: the errors, and the words for its reason codes.

A refusal that no waiting mends is told apart from one that may pass, so that a service neither tries for ever what
cannot succeed nor gives up on what can.
"""

from typing import Any

from mpsl.errors import BrokerError

FAILURE = 0x80
"""Reason codes from here on are refusals (section 2.4 of MQTT 5)."""
FINAL = frozenset({1, 4, 5, 132, 134, 135, 138})
"""CONNACK codes that no waiting mends: wrong version, wrong credentials, not authorised, banned."""

_CREDENTIALS = "check the user in --broker mqtt://USER@HOST, $MPSL_PASSWORD_FILE, and --cert and --key"
_ACCESS = "check the broker's access rules for this user (docs/acl.example)"
_CONNECT_HINTS = {
    1: "try --mqtt 3.1.1",
    132: "try --mqtt 3.1.1",
    4: _CREDENTIALS,
    5: _CREDENTIALS,
    134: _CREDENTIALS,
    135: _CREDENTIALS,
    137: "it is busy or full; try again later, or raise its max_connections",
    151: "it is full; raise its limit of connections",
    159: "it limits how often clients connect; try again later",
}
_REQUEST_HINTS = {
    128: _ACCESS,
    135: _ACCESS,
    144: "the broker does not allow this topic name",
    149: "make [wire] chunk_bytes smaller, or raise the broker's limit (mosquitto: max_packet_size)",
    151: "the broker's quota is used up; raise its limit of messages or of storage",
    154: "the broker keeps no retained messages; allow them (mosquitto: retain_available)",
}


class Refused(BrokerError):
    """The broker refuses us for good."""


class PublishRefused(BrokerError):
    """The broker has refused one publish at QoS 1; the connection goes on. `code` is its MQTT 5 reason code."""

    def __init__(self, topic: str, code: int, reason: str) -> None:
        super().__init__(f"{topic}: the broker refuses this publish: {reason}{_after(_REQUEST_HINTS.get(code))}")
        self.topic = topic
        self.code = code
        self.reason = reason


def code_of(reason: Any) -> int:
    """The number of a reason code as the client library gives it."""
    return int(getattr(reason, "value", reason))


def words(reason: Any, properties: Any = None) -> str:
    """What the broker says: the name and number of its reason code, and its own text where it sends one."""
    said = getattr(properties, "ReasonString", None)
    elsewhere = getattr(properties, "ServerReference", None)
    text = f"{reason} (code {code_of(reason)})" if not isinstance(reason, int) else f"code {reason}"
    return (
        text + (f", saying {said!r}" if said else "") + (f"; it names another server: {elsewhere}" if elsewhere else "")
    )


def refused_connection(shown: str, reason: Any, properties: Any = None) -> BrokerError:
    """The error for a CONNACK that refuses us."""
    code = code_of(reason)
    text = f"broker {shown} refuses the connection: {words(reason, properties)}{_after(_CONNECT_HINTS.get(code))}"
    return Refused(text) if code in FINAL else BrokerError(text)


def refused_subscription(name: str, reason: Any) -> Refused:
    """The error for a SUBACK that refuses a filter."""
    return Refused(f"the broker refuses the subscription {name} ({words(reason)}): see its access rules for this user")


def _after(hint: str | None) -> str:
    return f"; {hint}" if hint else ""
