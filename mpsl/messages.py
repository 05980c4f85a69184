"""The messages that cross a link, one frozen struct for each kind. `wire` encodes them.

The link does the fencing by term and boot; a message holds only what its receiver needs to act.
"""

from typing import ClassVar, Literal, TypeVar

from msgspec import Struct

from mpsl.topics import Lane


class Ticket(Struct, frozen=True, gc=False, order=True):
    """Names one micro-batch of one device's update: epoch, batch and micro-batch count from 0, round from 1."""

    term: int
    round: int
    device: str
    attempt: int
    epoch: int
    batch: int
    micro: int
    micros: int
    """The number of micro-batches in the batch; the last one has micro == micros - 1."""

    @property
    def last(self) -> bool:
        """Whether this is the batch's last micro-batch, after whose backward every part steps."""
        return self.micro == self.micros - 1


class Tensor(Struct, frozen=True, gc=False):
    """An encoded tensor: the codec that made `planes`, and the dtype and shape of the decoded tensor.

    Each plane is one contiguous run of little-endian bytes, a memoryview of format 'B'. Codecs make it, messages carry
    it, codecs read it. Where several tensors cross a cut, they travel together: the first one carries the others.
    """

    codec: str
    dtype: str
    shape: tuple[int, ...]
    planes: tuple[memoryview, ...]
    order: tuple[int, ...] = ()
    """The dimensions from the outermost in memory to the innermost; empty where they are in their own order."""
    others: tuple["Tensor", ...] = ()
    """The other tensors of this message; none of them has others."""

    @property
    def nbytes(self) -> int:
        """Bytes of all planes, those of the others included."""
        return sum(plane.nbytes for plane in self.all_planes)

    @property
    def all_planes(self) -> tuple[memoryview, ...]:
        """The planes of this tensor, then those of the others."""
        return self.planes + tuple(plane for other in self.others for plane in other.planes)


Purpose = Literal["global", "update", "sum", "part", "frozen", "savepoint"]
"""What a slice of weights is for."""


class Message(Struct, frozen=True, gc=False):
    """Base of all kinds: `kind` names it on the wire, `lane` is the link it travels on."""

    kind: ClassVar[str]
    lane: ClassVar[Lane] = "ctl"


KINDS: dict[str, type[Message]] = {}
_M = TypeVar("_M", bound=Message)


def message_kind(kind: type[_M]) -> type[_M]:
    """Register a kind of message under its name."""
    KINDS[kind.kind] = kind
    return kind


@message_kind
class Activation(Message, frozen=True):
    """The output of a part on its way to the next part (training)."""

    kind = "activation"
    lane = "fwd"
    ticket: Ticket
    tensor: Tensor


@message_kind
class Gradient(Message, frozen=True):
    """The gradient of the loss by an activation, on its way back."""

    kind = "gradient"
    lane = "bwd"
    ticket: Ticket
    tensor: Tensor


@message_kind
class Probe(Message, frozen=True):
    """An activation of the committed model in evaluation mode: batch `batch` of `device`'s test data."""

    kind = "probe"
    lane = "fwd"
    round: int
    device: str
    attempt: int
    batch: int
    tensor: Tensor


@message_kind
class Slice(Message, frozen=True):
    """Elements `offset` and on of tensor number `index` of a part; `version` is the committed round that it belongs to.

    `purpose`: global (orchestrator to a seat or device), update (device to orchestrator, with its attempt), sum (of a
    replica, to be merged) or part (the committed one, for the checkpoint), both from a seat to the orchestrator, or
    savepoint (a sum so far, both ways; `attempt` is the number of accepted updates in it). Frozen parameters come once
    from the orchestrator: frozen.
    """

    kind = "slice"
    lane = "weights"
    purpose: Purpose
    version: int
    attempt: int
    part: int
    index: int
    offset: int
    tensor: Tensor


@message_kind
class Joined(Message, frozen=True):
    """A seat or device has built its part and subscribed; a refusal says why it cannot take part.

    A device adds how many training samples and how many batches of test data it has. A seat adds the digest of the part
    that it still holds from the term before; empty where it holds none. It says it again, with the plan's `revision`,
    when the plan has changed.
    """

    kind = "joined"
    refusal: str = ""
    samples: int = 0
    test_batches: int = 0
    held: str = ""
    revision: int = 0


@message_kind
class Keep(Message, frozen=True):
    """The part that the seat holds is the committed one of `version`, so it is not sent again."""

    kind = "keep"
    version: int


@message_kind
class Loaded(Message, frozen=True):
    """A seat holds the whole committed part of `version`."""

    kind = "loaded"
    version: int


@message_kind
class Admit(Message, frozen=True):
    """`device` is admitted: a seat makes a copy, and the device begins once it holds the weights of `round` - 1.

    `batches` counts the optimizer steps of the whole round, all local epochs together.
    """

    kind = "admit"
    round: int
    device: str
    boot: str
    attempt: int
    batches: int


@message_kind
class Finished(Message, frozen=True):
    """A seat has made all of a device's steps of the round."""

    kind = "finished"
    round: int
    device: str
    attempt: int
    batches: int


@message_kind
class Update(Message, frozen=True):
    """A device has made all its steps and sent the weights of its parts.

    `loss` is Σ batch loss × batch samples, the mean of the local epochs; `samples` are the shard's.
    """

    kind = "update"
    round: int
    attempt: int
    batches: int
    samples: int
    loss: float
    seconds: float


@message_kind
class Accept(Message, frozen=True):
    """The orchestrator took a device's update as number `number` (from 1) of the round; a seat folds its copy."""

    kind = "accept"
    round: int
    device: str
    attempt: int
    number: int
    samples: int
    batches: int


@message_kind
class Discard(Message, frozen=True):
    """Forget a device's attempt, with its copy, activations and pending sends."""

    kind = "discard"
    round: int
    device: str
    attempt: int


@message_kind
class Discarded(Message, frozen=True):
    """A seat has forgotten the attempt, so its place is free."""

    kind = "discarded"
    device: str
    attempt: int


@message_kind
class Close(Message, frozen=True):
    """No more updates in this round; `devices` of those accepted were this seat's, `weight` is that of all of them.

    The seat divides its sum by `weight`: that is the committed part from now on. With `merge` (a stage with replicas)
    it sends its sum instead, and gets the merged part.
    """

    kind = "close"
    round: int
    devices: int
    weight: int
    merge: bool = False


@message_kind
class Closed(Message, frozen=True):
    """A seat has closed the round: it folded `devices` updates of `weight` samples together.

    Unless it is to be merged, it serves the committed part now. A refusal says why it cannot.
    """

    kind = "closed"
    round: int
    devices: int
    weight: int
    refusal: str = ""


@message_kind
class Sent(Message, frozen=True):
    """A seat has sent all slices of this purpose, version and attempt; `digest` is that of their bytes."""

    kind = "sent"
    purpose: Purpose
    version: int
    digest: str
    attempt: int = 0


@message_kind
class TakeSavepoint(Message, frozen=True):
    """Send your sum as it is after the first `number` accepted updates of the round; `devices` of them were yours."""

    kind = "take-savepoint"
    round: int
    number: int
    devices: int


@message_kind
class RestoreSum(Message, frozen=True):
    """The round goes on from a savepoint: your sum is sent. It is that of `devices` updates with `weight` samples."""

    kind = "restore-sum"
    round: int
    devices: int
    weight: int


@message_kind
class Restored(Message, frozen=True):
    """A seat holds the whole sum of the savepoint."""

    kind = "restored"
    round: int


@message_kind
class Commit(Message, frozen=True):
    """The merged part of `round`, which the seat has loaded, is the committed one from now on."""

    kind = "commit"
    round: int


@message_kind
class Committed(Message, frozen=True):
    """A replica now serves the merged part of `round`."""

    kind = "committed"
    round: int


@message_kind
class Evaluate(Message, frozen=True):
    """Run your test data through the committed model of `round`."""

    kind = "evaluate"
    round: int
    attempt: int


@message_kind
class Score(Message, frozen=True):
    """All that leaves a device of its test data: the numbers of samples and correct ones, and the sum of the losses."""

    kind = "score"
    round: int
    attempt: int
    correct: int
    total: int
    loss: float


@message_kind
class Report(Message, frozen=True):
    """Say how many payload bytes you sent and received in this run so far."""

    kind = "report"
    round: int


@message_kind
class Counters(Message, frozen=True):
    """MQTT payload bytes since the run was joined."""

    kind = "counters"
    round: int
    sent: int
    received: int


@message_kind
class Fault(Message, frozen=True):
    """A job has failed, so the run cannot go on with this seat (or this device)."""

    kind = "fault"
    reason: str


@message_kind
class CopyFailed(Message, frozen=True):
    """A job for one device's copy has failed at this seat: its input or its result is unusable.

    The copy is lost, but the seat can go on.
    """

    kind = "copy-failed"
    device: str
    attempt: int
    reason: str


@message_kind
class End(Message, frozen=True):
    """The run is over; the exit status of a `--once` process follows `state`."""

    kind = "end"
    state: Literal["done", "failed"]
    reason: str
