"""Reads text as editors and shells of all systems write it: one reader for job, fleet, plan, option and password files.

It reads UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one, and all line endings. Ambiguous text
(Latin-1 and its relatives, UTF-16 without a mark) is refused with the command that converts it, never guessed.
"""

import codecs
import json
import tomllib
from pathlib import Path
from typing import Any

from mpsl.errors import UsageError

MAX_BYTES = 64 * 1024 * 1024
"""Nobody writes a longer file by hand, and a device file may never end."""
_MARKS = (
    # UTF-32 first: its mark begins with that of UTF-16.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
TYPOGRAPHIC = {
    "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "‘": "'", "’": "'", "‚": "'",
    "\u00a0": "a space", "\u2007": "a space", "\u202f": "a space", "\u200b": "nothing", "\u2212": "-", "–": "-",
}  # fmt: skip
"""Characters that editors and web pages substitute, and the ones that these files need."""


def read_text(path: Path, where: str | None = None) -> str:
    r"""Return the text of the file with `\n` line endings. Raises UsageError that begins with `where` (or the path)."""
    where = where or str(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{where}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{where}: has more than {MAX_BYTES} bytes; is it the right file?")
    return decode(content, where, str(path))


def read_toml(path: Path, where: str | None = None) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises UsageError as `read_text` does, also if it is not TOML."""
    text = read_text(path, where)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise UsageError(f"{where or path}: is not TOML: {error}{typographic(text)}") from None


def read_json(path: Path, hint: str = "") -> Any:
    """Return the content of a JSON file. Raises UsageError as `read_text` does, and with `hint` if it is not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is not JSON: {error}{typographic(text)}{hint and '; '}{hint}") from None


def decode(content: bytes, where: str, file: str) -> str:
    """Decode a file's bytes as `read_text` does; `file` is its name in the suggested iconv command."""
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    if not mark and b"\0" in content:
        raise UsageError(f"{where}: {_with_null_bytes(content, file)}")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if mark:
            name = encoding.removesuffix("-sig").upper()
            raise UsageError(f"{where}: begins like {name}, but is damaged: {error.reason}") from None
        raise UsageError(
            f"{where}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8; "
            f"if the file is Latin-1, convert it: {_iconv('LATIN1', file)}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def typographic(text: str) -> str:
    """Return half a sentence about the first typographic character in a text that is not TOML or JSON, or ""."""
    for number, line in enumerate(text.splitlines(), start=1):
        for character in line:
            if character in TYPOGRAPHIC:
                return (
                    f"; line {number} has the typographic character {character!r} (U+{ord(character):04X}) "
                    f"where {TYPOGRAPHIC[character]} may be meant"
                )
    return ""


def _with_null_bytes(content: bytes, file: str) -> str:
    even, odd = content[::2].count(0), content[1::2].count(0)
    if abs(even - odd) > len(content) // 4:
        name = "UTF-16LE" if odd > even else "UTF-16BE"
        return f"is not UTF-8 but seems to be {name}; convert it: {_iconv(name, file)}"
    return "is not a text file: it holds null bytes"


def _iconv(encoding: str, file: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 '{file}' > '{file}.utf8'"
