"""Writes a file whole or not at all: write beside, fsync, rename.

A reader must never find half a file, nor must a full disk cost the one that was there.
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
            beside.unlink(missing_ok=True)  # on a full disk it takes the space that is missing
        raise DiskError(f"{path}: cannot be written: {error}") from None


def put(beside: Path, path: Path) -> None:
    """Put a file that is written in the place of another, so that it is there after a power cut. Raises OSError."""
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    beside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
