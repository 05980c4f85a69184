"""Functions that a person names as `package.module:function`: models, shards, losses.

They are other people's code. Whatever it raises becomes a UsageError that names the function and the place in its file.
Nothing here may be called with a name that came from the network and that the owner of this machine has not allowed.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mpsl.errors import UsageError

_NOT_THEIRS = ("importlib", "/torch/", "mpsl/functions.py")
"""Parts of file names that are not the person's own."""


def find(source: str, where: str, how: str) -> Callable[..., Any]:
    """Return the function `source`. Its module may be in the working directory.

    Raises UsageError that begins with `where` and ends with `how` (what to write instead).
    """
    module, _, name = source.partition(":")
    if "/" in module or module.endswith(".py"):
        written = f"{Path(module).stem}:{name}"
        raise UsageError(f"{where}: a module has no folder and no .py: write {written}, and start where the file is")
    with importable_working_directory():
        try:
            function = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise UsageError(f"{where}: {in_words(error)}; {how}") from None
    if not callable(function):
        raise UsageError(f"{where}: {name} is not a function; {how}")
    found: Callable[..., Any] = function
    return found


def call(function: Callable[..., Any], where: str, *args: Any, **keywords: Any) -> Any:
    """Return what the function returns. Raises UsageError that begins with `where`, whatever the function raises."""
    with importable_working_directory():
        try:
            return function(*args, **keywords)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{where}: the function raised {in_words(error)}") from None


def in_words(error: BaseException) -> str:
    """The error's type and text, and where in the person's own file it was raised."""
    place = place_of(error)
    try:
        text = str(error)
    except Exception:  # it is their exception, too
        text = "(no text)"
    return f"{type(error).__name__}: {text}" + (f" ({place})" if place else "")


def place_of(error: BaseException) -> str:
    """`file:line` of the innermost frame that is the person's own code; empty where there is none."""
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_foreign(frame)
    ]
    return places[-1] if places else ""


def _is_foreign(frame: FrameType) -> bool:
    name = frame.f_code.co_filename.replace("\\", "/")
    return any(part in name for part in _NOT_THEIRS) or frame.f_globals.get("__name__", "").split(".")[0] == "mpsl"


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Search modules as `python -m` does: in the working directory first while the block lasts, and last after it.

    First, because the person means the file that is there; last, for imports that the function does later.
    """
    try:
        here = str(Path.cwd())
    except OSError:  # it has been removed
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
