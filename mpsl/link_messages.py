"""The messages with which the link of a participant is measured, before there is a plan.

They travel like those of a run, and must never be taken in one.
"""

from mpsl.messages import Message, Tensor, message_kind


@message_kind
class Echo(Message, frozen=True):
    """A participant to itself: how long the way to the broker and back takes."""

    kind = "echo"
    number: int


@message_kind
class Linked(Message, frozen=True):
    """A participant is ready to have its link measured; `latency_s` is half of its shortest way there and back."""

    kind = "linked"
    latency_s: float


@message_kind
class Pull(Message, frozen=True):
    """Send burst `number`, of `size` bytes."""

    kind = "pull"
    number: int
    size: int


@message_kind
class ProbeBurst(Message, frozen=True):
    """Piece `index` of the `count` pieces of burst `number`: bytes without meaning."""

    kind = "probe-burst"
    lane = "weights"
    number: int
    index: int
    count: int
    tensor: Tensor


@message_kind
class Took(Message, frozen=True):
    """Burst `number` is here: `received` bytes came in the `seconds` from its first piece to its last."""

    kind = "took"
    number: int
    received: int
    seconds: float
