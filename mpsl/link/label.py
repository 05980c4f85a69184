"""The user properties that mirror a message's header for people who watch the topics.

Nothing reads them back: a message is decoded from its payload alone.
"""

import functools

from mpsl.messages import Message, Tensor

Pairs = tuple[tuple[str, str], ...]
"""Names and values."""


def label(message: Message) -> Pairs:
    """What it is, whose, which batch of which round, and what its tensor looks like, as far as it has these."""
    about = getattr(message, "ticket", message)
    found = _steady(message.kind, *[getattr(about, name, None) for name in ("round", "device", "epoch")])
    found += tuple([(name, str(getattr(about, name))) for name in ("batch", "micro") if hasattr(about, name)])
    tensor: Tensor | None = getattr(message, "tensor", None)
    return found if tensor is None else found + _tensor(tensor.codec, tensor.dtype, tensor.shape)


@functools.lru_cache(4096)
def _steady(kind: str, round: int | None, device: str | None, epoch: int | None) -> Pairs:
    """The same for all batches of an epoch, so that it is made once."""
    known = {"kind": kind, "round": round, "device": device, "epoch": epoch}
    return tuple((name, str(value)) for name, value in known.items() if value is not None)


@functools.lru_cache(4096)
def _tensor(codec: str, dtype: str, shape: tuple[int, ...]) -> Pairs:
    return ("codec", codec), ("dtype", dtype), ("shape", "x".join(map(str, shape)))
