"""The only place that writes JSON: files, topics and `--json` output hold nothing that a strict reader refuses.

Python writes NaN and infinity as `NaN` and `Infinity`, which are not JSON and stop `jq`, JavaScript and most databases.
Here they become null. A test makes sure that nothing else in the project calls `json.dumps`.
"""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(content: Any, *, indent: int | None = None, compact: bool = False, sort_keys: bool = False) -> str:
    """`content` as one JSON text; `compact` leaves out the spaces. Raises TypeError for what JSON cannot hold."""
    separators = (",", ":") if compact else None
    try:
        return json.dumps(content, allow_nan=False, indent=indent, separators=separators, sort_keys=sort_keys)
    except ValueError:
        finite = _finite(content)
        return json.dumps(finite, allow_nan=False, indent=indent, separators=separators, sort_keys=sort_keys)


def _finite(content: Any) -> Any:
    """The same content with null in place of each number that is not finite; such a key becomes a string."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {
            str(key) if isinstance(key, float) and not math.isfinite(key) else key: _finite(value)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [_finite(item) for item in content]
    return content
