"""Where a device finds its shard: a .npz file, or a function of the person who runs it."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from mpsl.errors import UsageError
from mpsl.shard import Shard, make_shard, read_shard

__all__ = ["Shard", "load_shard"]


def load_shard(source: str) -> Shard:
    """The shard in the .npz file `source`, or what `package.module:function` returns: a mapping with the same keys."""
    if source.endswith(".npz") or ":" not in source:
        return read_shard(Path(source))
    module, _, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"--data {source}: {error}; give a .npz file or package.module:function") from None
    if not callable(function):
        raise UsageError(f"--data {source}: {name} is no function; give a .npz file or package.module:function")
    made = function()
    if not isinstance(made, Mapping):
        raise UsageError(f"--data {source}: the function must return a mapping with x and y, not {type(made).__name__}")
    return make_shard(source, made)
