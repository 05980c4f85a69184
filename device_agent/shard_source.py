"""Where a device finds its shard: a .npz file, or a function of the person who runs it."""

from collections.abc import Mapping
from pathlib import Path

from mpsl import functions
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
    made = functions.call(functions.find(source, f"--data {source}", DATA_HINT), f"--data {source}")
    if not isinstance(made, Mapping):
        raise UsageError(f"--data {source}: the function must return a mapping with x and y, not {type(made).__name__}")
    return make_shard(source, made)
