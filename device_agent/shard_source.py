"""Loads a device's shard from a .npz file, or from a function of the person who runs the device.

The function is external code: whatever it raises becomes an error that names it, and the line in its file.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mpsl.errors import UsageError
from mpsl.shard import Shard, make_shard, read_shard

__all__ = ["Shard", "load_shard"]

DATA_HINT = "give a .npz file or package.module:function"


def load_shard(source: str) -> Shard:
    """Return the shard in the .npz file `source`, or that of `package.module:function`, a mapping with the same keys.

    The module may be in the working directory. Raises UsageError, whatever module and function do.
    """
    if source.endswith(".npz") or ":" not in source:
        return read_shard(Path(source))
    with _importable_working_directory():
        made = _called(source, _function(source))
    if not isinstance(made, Mapping):
        raise UsageError(f"--data {source}: the function must return a mapping with x and y, not {type(made).__name__}")
    return make_shard(source, made)


def _function(source: str) -> Callable[[], object]:
    module, _, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--data {source}: {_words(error)}; {DATA_HINT}") from None
    if not callable(function):
        raise UsageError(f"--data {source}: {name} is not a function; {DATA_HINT}")
    found: Callable[[], object] = function
    return found


def _called(source: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise UsageError(f"--data {source}: the function raised {_words(error)}") from None


def _words(error: BaseException) -> str:
    """Return the error's type and text, and the line of the external file that raised it."""
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_ours(frame)
    ]
    return f"{type(error).__name__}: {error}" + (f" ({places[-1]})" if places else "")


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename == __file__ or "importlib" in frame.f_code.co_filename


@contextmanager
def _importable_working_directory() -> Iterator[None]:
    """Import from the working directory first during the block, as `python -m` does, and last after it.

    First, because the person means the file that is there; last, for imports that the function makes later.
    """
    try:
        here = str(Path.cwd())
    except OSError:  # the directory has been removed
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
