"""What `mpsl fleet list` shows: everyone, in which role, until when, and what was revoked."""

from pathlib import Path
from typing import Any

from broker.fleet import client_folder
from broker.fleet.fleet_folder import CA_KEY, FleetFolder
from broker.own_certificate import DAY_S, WARNING_DAYS
from mpsl import strict_json
from mpsl.identity.certificate import read_certificate, shown
from mpsl.names import BROKER

Row = dict[str, Any]


def list_members(folder: FleetFolder, as_json: bool, now: float) -> str:
    """The listing, as lines for people or as one JSON object; times in UTC."""
    register = folder.register()
    authority = read_certificate(folder.ca())
    rows: list[Row] = [
        {
            "id": member.id,
            "role": member.role,
            "ends": register.members[member.id].ends,
            "key": _place(folder.client(member.id) / client_folder.KEY),
        }
        for member in register.everyone()
    ]
    rows.append({"id": BROKER, "role": BROKER, "ends": register.server_ends, "key": "here"})
    rows.append(
        {"id": "authority", "role": "authority", "ends": int(authority.end), "key": _place(folder.path / CA_KEY)}
    )
    for row in rows:
        row["state"] = state_of(row["ends"], now)
    if as_json:
        content = {"net": register.net, "url": register.url, "fingerprint": authority.fingerprint, "members": rows}
        revoked = [{"id": each.id, "serial": each.serial, "at": each.at} for each in register.revoked]
        return strict_json.dumps({**content, "revoked": revoked})
    cells = [("ROLE", "ID", "UNTIL", "KEY", "STATE")]
    cells += [(row["role"], row["id"], shown(row["ends"]), row["key"], row["state"]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    lines += [f"revoked  {each.id}, on {shown(each.at)}" for each in register.revoked]
    return "\n".join([*lines, f"net {register.net} at {register.url}, authority {authority.fingerprint}"])


def _place(key: Path) -> str:
    return "here" if key.exists() else "elsewhere"


def state_of(ends: float, now: float) -> str:
    """Whether a certificate that ends then counts, in words."""
    days = int((ends - now) // DAY_S)
    if ends < now:
        return "expired: renew it"
    return f"ends in {days} days: renew it" if days < WARNING_DAYS else "valid"
