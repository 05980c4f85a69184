"""Refusals by a broker: the errors, and the texts for its reason codes.

Permanent refusals are told apart from temporary ones, so that a service neither repeats for ever what cannot succeed
nor gives up on what can.
"""

from typing import Any

from mpsl.errors import BrokerError

FIRST_FAILURE_CODE = 0x80
"""Reason codes from here on are refusals (section 2.4 of MQTT 5)."""
PERMANENT_CODES = frozenset({1, 4, 5, 132, 134, 135, 138})
"""CONNACK codes that stay: wrong version, wrong credentials, not authorised, banned."""

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
    151: "it is full; raise its connection limit",
    159: "it limits how often clients connect; try again later",
}
_REQUEST_HINTS = {
    128: _ACCESS,
    135: _ACCESS,
    144: "the broker does not allow this topic name",
    149: "reduce [wire] chunk_bytes, or raise the broker's limit (mosquitto: max_packet_size)",
    151: "the broker's quota is used up; raise its limit on messages or storage",
    154: "the broker keeps no retained messages; allow them (mosquitto: retain_available)",
}


class Refused(BrokerError):
    """A permanent refusal by the broker."""


class PublishRefused(BrokerError):
    """The broker has refused one publish at QoS 1; the connection goes on. `code` is its MQTT 5 reason code."""

    def __init__(self, topic: str, code: int, reason: str) -> None:
        super().__init__(f"{topic}: the broker refuses this publish: {reason}{_after(_REQUEST_HINTS.get(code))}")
        self.topic = topic
        self.code = code
        self.reason = reason


def code_of(reason: Any) -> int:
    """Return the number of a reason code of the client library."""
    return int(getattr(reason, "value", reason))


def words(reason: Any, properties: Any = None) -> str:
    """Return the name and number of the broker's reason code, and its own text if it sends one."""
    said = getattr(properties, "ReasonString", None)
    elsewhere = getattr(properties, "ServerReference", None)
    text = f"{reason} (code {code_of(reason)})" if not isinstance(reason, int) else f"code {reason}"
    return (
        text + (f", saying {said!r}" if said else "") + (f"; it names another server: {elsewhere}" if elsewhere else "")
    )


def refused_connection(shown: str, reason: Any, properties: Any = None) -> BrokerError:
    """Return the error for a refusing CONNACK."""
    code = code_of(reason)
    text = f"broker {shown} refuses the connection: {words(reason, properties)}{_after(_CONNECT_HINTS.get(code))}"
    return Refused(text) if code in PERMANENT_CODES else BrokerError(text)


def refused_subscription(name: str, reason: Any) -> Refused:
    """Return the error for a SUBACK that refuses a filter."""
    return Refused(f"the broker refuses the subscription {name} ({words(reason)}): check its access rules")


def _after(hint: str | None) -> str:
    return f"; {hint}" if hint else ""
