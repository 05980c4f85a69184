"""User properties that repeat a message's header for people who watch the topics.

Nothing reads them back: a message is decoded from its payload alone.
"""

import functools

from mpsl.messages import KINDS, Message, Tensor, Ticket

NAMES = ("round", "device", "epoch", "batch", "micro")
"""The fields of a message or its ticket that are shown, if it has them."""


def label(message: Message) -> tuple[tuple[str, str], ...]:
    """Return kind, device, round and batch of a message, and codec, dtype and shape of its tensor, as pairs."""
    about = getattr(message, "ticket", message)
    tensor: Tensor | None = getattr(message, "tensor", None)
    return (
        ("kind", message.kind),
        *[(name, str(getattr(about, name))) for name in _SHOWN[message.kind]],
        *(_of_tensor(tensor.codec, tensor.dtype, tensor.shape) if tensor is not None else ()),
    )


def _shown(kind: type[Message]) -> tuple[str, ...]:
    about = Ticket if "ticket" in kind.__struct_fields__ else kind
    return tuple(name for name in NAMES if name in about.__struct_fields__)


@functools.lru_cache(256)
def _of_tensor(codec: str, dtype: str, shape: tuple[int, ...]) -> tuple[tuple[str, str], ...]:
    return ("codec", codec), ("dtype", dtype), ("shape", "x".join(map(str, shape)))


_SHOWN = {name: _shown(kind) for name, kind in KINDS.items()}
