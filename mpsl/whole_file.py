"""Writes a file completely or not at all: to a temporary file, with fsync and rename.

A reader must never find half a file, and a full disk must never destroy the old one.
"""

import contextlib
import os
from pathlib import Path

from mpsl.errors import DiskError

READABLE = 0o666
"""The permissions of an ordinary file; the umask takes some away."""
PRIVATE = 0o600
"""Those of a private key or a password: its owner alone."""


def write_whole(path: Path, text: str | bytes, mode: int = READABLE) -> None:
    """Write `text` to a file, or leave the file as it was. Raises DiskError that names it.

    The new file never has more permissions than `mode`, not even while it is written.
    """
    beside = path.with_name(f".{path.name}.new")
    content = text.encode() if isinstance(text, str) else text
    try:
        beside.unlink(missing_ok=True)  # one that was left keeps its own permissions
        file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(file, "wb") as opened:
            opened.write(content)
        put(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)  # on a full disk it takes up the missing space
        raise DiskError(f"{path}: cannot be written: {error}") from None


def put(beside: Path, path: Path) -> None:
    """Replace a file by a written one, so that it survives a power cut. Raises OSError."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
