"""Who we are: this machine's clock, our certificate and its role. Nothing here needs the network."""

import time
from pathlib import Path

from broker.address import BrokerAddress
from broker.doctor.finding import COPY_AGAIN, Finding, explained_problem, ok, problem, skipped
from broker.own_certificate import WARNING_DAYS, certificate_problem, ending_soon
from mpsl.errors import IdentityError, UsageError
from mpsl.identity.certificate import Certificate, read_certificate, shown
from mpsl.identity.fleet_member import FleetMember

CHECKS = ("clock", "certificate", "role")


def check_identity(
    address: BrokerAddress, member: FleetMember | None, id: str | None, now: float | None = None
) -> list[Finding]:
    """Check clock, certificate and role at `now` (None: by this machine's clock)."""
    at = time.time() if now is None else now
    own = _read(address.cert)
    return [_clock(address, own, at), _certificate(address, own, id, at), _role(address, member)]


def _read(path: str | None) -> Certificate | IdentityError | None:
    """The certificate in a file, the error why it cannot be read, or None without a file."""
    if path is None:
        return None
    try:
        return read_certificate(Path(path).read_bytes())
    except OSError as error:
        return IdentityError(f"cannot be read: {error.strerror or error}")
    except IdentityError as error:
        return error


def _clock(address: BrokerAddress, own: Certificate | IdentityError | None, now: float) -> Finding:
    """A clock before the authority's beginning is late; nothing on this machine tells one that is early."""
    authority = _read(address.ca)
    begins = [each.begin for each in (own, authority) if isinstance(each, Certificate)]
    if begins and now < max(begins):
        cause = f"the certificates begin on {shown(max(begins))}, so the clock is late"
        return problem("clock", f"says {shown(now)}", cause, "set it: timedatectl set-ntp true, or date -s")
    against = "" if begins else "; there is no certificate to compare it with"
    return ok("clock", f"says {shown(now)}{against}")


def _certificate(
    address: BrokerAddress, own: Certificate | IdentityError | None, id: str | None, now: float
) -> Finding:
    if own is None or address.cert is None:
        if address.tls:
            return ok("certificate", "none; the broker must take passwords, or anybody")
        return ok("certificate", "none, and none is needed without TLS")
    if isinstance(own, IdentityError):
        return problem("certificate", address.cert, str(own), COPY_AGAIN)
    try:
        address.context()
    except UsageError as error:
        return explained_problem("certificate", "the files do not go together", str(error), COPY_AGAIN)
    wrong = certificate_problem(address.cert, address.ca, now)
    if wrong:
        remedy = COPY_AGAIN
        if "valid" in wrong:
            remedy = f"mpsl fleet renew {own.member.id if own.member else 'ID'}; or is the clock wrong?"
        return problem("certificate", address.cert, wrong, remedy)
    if own.member is None:
        return ok("certificate", f"valid until {shown(own.end)}; not made by `mpsl fleet`")
    if id is not None and id != own.member.id and own.member.role in ("device", "node"):
        cause = f"the certificate is that of {own.member.id}, and the broker knows us by that name"
        return problem("certificate", f"--id is {id}", cause, "leave --id out, or take the folder of that id")
    if ending_soon(address.cert, now):
        cause = f"less than {WARNING_DAYS} days are left"
        return problem("certificate", f"ends on {shown(own.end)}", cause, f"mpsl fleet renew {own.member.id}")
    authority = _read(address.ca)
    fingerprint = authority.fingerprint if isinstance(authority, Certificate) else "unknown"
    return ok("certificate", f"{own.member.id}, valid until {shown(own.end)}; authority {fingerprint}")


_WORK: dict[str, str] = {
    "device": "mpsl device --data shard.npz",
    "node": "mpsl node",
    "orchestrator": "mpsl train, ls and tap",
    "viewer": "mpsl ls and tap",
}


def _role(address: BrokerAddress, member: FleetMember | None) -> Finding:
    if member is None:
        return skipped("role", "no certificate of a fleet states one")
    return ok("role", f"{member}: {_WORK[member.role]}")
