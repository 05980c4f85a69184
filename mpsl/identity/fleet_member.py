"""A member of a fleet: the net, role and id that its certificate states.

The certificate has them as one URI, `urn:mpsl:NET:ROLE:ID`, in its subjectAltName; that URI alone counts. The subject
repeats id (CN) and role (OU) for brokers and people.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from mpsl.errors import IdentityError, UsageError
from mpsl.names import BROKER, ORCHESTRATOR, check_id, nearest

Role = Literal["device", "node", "orchestrator", "viewer"]
ROLES: tuple[Role, ...] = get_args(Role)

URN = "urn:mpsl:"


@dataclass(frozen=True)
class FleetMember:
    """Who somebody is in one net."""

    net: str
    role: Role
    id: str

    @property
    def uri(self) -> str:
        """How a certificate states it."""
        return f"{URN}{self.net}:{self.role}:{self.id}"

    def __str__(self) -> str:
        return f"{self.role} {self.id} of net {self.net}"


def check_role(text: str, where: str) -> Role:
    """Return the role called `text`; raises UsageError that begins with `where`."""
    if text not in ROLES:
        raise UsageError(f"{where}: unknown role {text!r}; {nearest(text, ROLES)}")
    return text


def check_member(net: str, role: str, id: str) -> FleetMember:
    """The member; raises UsageError where net, role or id cannot be one.

    An orchestrator may be called `orch`; whatever its id, it signs its messages as `orch`. `broker` is the broker's.
    """
    checked = check_role(role, "--role")
    if id == BROKER:
        raise UsageError(f"id {id!r} is reserved for the broker; choose another id")
    if not (id == ORCHESTRATOR and checked == "orchestrator"):
        check_id(id, "id")
    return FleetMember(check_id(net, "net"), checked, id)


def read_uri(uri: str) -> FleetMember:
    """The member that a URI states; raises IdentityError where it states none."""
    parts = uri.removeprefix(URN).split(":")
    if not uri.startswith(URN) or len(parts) != 3:
        raise IdentityError(f"{uri[:100]!r} names no member of a fleet; the form is {URN}NET:ROLE:ID")
    try:
        return check_member(*parts)
    except UsageError as error:
        raise IdentityError(f"{uri[:100]!r} names no member of a fleet: {error}") from None
