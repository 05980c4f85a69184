"""Who our own certificate says that we are, and how long it does: read for every command, and watched by services.

The library that reads certificates is loaded only where there is one: a device without has better use for the memory.
"""

from pathlib import Path

from mpsl.errors import IdentityError, UsageError
from mpsl.identity.fleet_member import FleetMember, Role
from mpsl.names import check_id

DAY_S = 86400
WARNING_DAYS = 30
"""So long before the end of a certificate there is a warning."""


def member_of(cert: str | None, net: str) -> FleetMember | None:
    """The member of a fleet that `--cert` names; None without a certificate, or with one that no fleet has made.

    Raises UsageError where it is one of another net. A file that cannot be read is reported where TLS needs it.
    """
    if cert is None:
        return None
    from mpsl.identity.certificate import read_certificate

    try:
        member = read_certificate(Path(cert).read_bytes()).member
    except (OSError, IdentityError):
        return None
    if member is not None and member.net != net:
        raise UsageError(f"--net {net}: the certificate {cert} is for the net {member.net}")
    return member


def certificate_problem(cert: str, ca: str | None, now: float) -> str:
    """What is wrong with our own certificate, as far as that can be seen here; "" where nothing is.

    Its dates, and whether the authority has signed it. Revocation is known to the broker alone.
    """
    from mpsl.identity.certificate import believe, check_dates, read_certificate

    try:
        own = read_certificate(Path(cert).read_bytes())
        authority = None if ca is None else read_certificate(Path(ca).read_bytes())
        check_dates(own, now)
        if own.member is not None and authority is not None:
            believe(own, authority, now)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except IdentityError as error:
        return str(error)
    return ""


def ending_soon(cert: str, now: float) -> str:
    """A warning where our certificate ends within WARNING_DAYS, or has ended; "" where it does not."""
    from mpsl.identity.certificate import read_certificate, shown

    try:
        own = read_certificate(Path(cert).read_bytes())
    except (OSError, IdentityError):
        return ""  # it is being renewed, or the next connection tells
    days = (own.end - now) / DAY_S
    if days > WARNING_DAYS:
        return ""
    renewal = f"`mpsl fleet renew {own.member.id}`" if own.member else "renew it"
    when = f"in {days:.0f} days" if days > 0 else "already"
    return f"our certificate {'ends' if days > 0 else 'has ended'} on {shown(own.end)}, {when}: {renewal}"


def check_own_role(member: FleetMember | None, role: Role, command: str) -> None:
    """Raise UsageError where our certificate is for another role: the broker would let us connect, and then refuse."""
    if member is not None and member.role != role:
        raise UsageError(
            f"--cert: it is the certificate of {member}, and `mpsl {command}` needs one of role {role}: "
            f"`mpsl fleet add ID --role {role}`"
        )


def own_id(member: FleetMember | None, given: str | None, default: str, role: Role) -> str:
    """The id of this device or node: as given, else that of its certificate, else `default`. Raises UsageError."""
    check_own_role(member, role, role)
    if member is None:
        return check_id(given or default, "--id")
    if given is not None and given != member.id:
        raise UsageError(f"--id {given}: the certificate is that of {member.id}, and the broker knows us by that name")
    return member.id
