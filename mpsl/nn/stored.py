"""How many bytes autograd keeps for a backward, read off the graph itself. It must never keep anything alive."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch


def stored_bytes(output: torch.Tensor, without: Iterable[torch.Tensor]) -> int:
    """Bytes of `output` and of all that its graph has saved, each storage once, those of `without` left out."""
    known = {_storage(tensor) for tensor in without}
    total = 0
    for tensor in (output, *_saved(output.grad_fn)):
        if _storage(tensor) not in known:
            known.add(_storage(tensor))
            total += tensor.untyped_storage().nbytes()
    return total


def _saved(node: Any) -> Iterator[torch.Tensor]:
    seen, waiting = {None}, [node]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                for tensor in value if isinstance(value, tuple | list) else (value,):
                    if isinstance(tensor, torch.Tensor):
                        yield tensor


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
