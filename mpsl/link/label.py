"""The user properties that mirror a message's header for people who watch the topics.

Nothing reads them back: a message is decoded from its payload alone.
"""

from mpsl.messages import Message, Tensor

NAMES = ("round", "device", "epoch", "batch", "micro")
"""What of a message or its ticket is shown, where it has it."""


def label(message: Message) -> tuple[tuple[str, str], ...]:
    """What it is, whose, which batch of which round, and what its tensor looks like, as names and values."""
    about = getattr(message, "ticket", message)
    pairs = [("kind", message.kind)]
    pairs += [(name, str(getattr(about, name))) for name in NAMES if hasattr(about, name)]
    tensor: Tensor | None = getattr(message, "tensor", None)
    if tensor is not None:
        pairs += [("codec", tensor.codec), ("dtype", tensor.dtype), ("shape", "x".join(map(str, tensor.shape)))]
    return tuple(pairs)
