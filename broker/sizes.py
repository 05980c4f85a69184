"""Parses sizes in bytes as people write them. It must never know what has that size."""

import re

from mpsl.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str, where: str) -> int:
    """Return '2GiB', '500MB' or a plain number in bytes. Raises UsageError that begins with `where`."""
    match = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]*)\s*", text, re.ASCII)
    if not match or match[2].upper() not in _UNITS:
        raise UsageError(f"{where} {text!r}: write a size such as 2GiB, 500MB or 1000000")
    return int(float(match[1]) * _UNITS[match[2].upper()])
