"""Writes a file whole or not at all: write beside, fsync, rename.

A reader must never find half a file, nor must a full disk cost the one that was there.
"""

import contextlib
import os
from pathlib import Path

from mpsl.errors import DiskError


def write_whole(path: Path, text: str) -> None:
    """Write `text` to a file, or leave the file as it was. Raises DiskError that names it."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text)
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
