"""The faults of a simulation: how the network disturbs messages, and which faults are injected into which process."""

from dataclasses import dataclass
from typing import Literal, get_args

from mpsl.names import BROKER

FaultKind = Literal[
    "crash",
    "cut",
    "partition",
    "mute",
    "deaf",
    "freeze",
    "suspend",
    "jump",
    "error",
    "disk",
    "outage",
    "restart",
    "forget",
]
BROKER_FAULTS: tuple[FaultKind, ...] = ("outage", "restart", "forget")
"""The faults of the broker itself; all others are those of a process."""


@dataclass(frozen=True)
class InjectedFault:
    """Hits `process` once it has handled `after` events, so that every step of the protocol can be hit.

    crash: the process vanishes without notice and restarts with another boot after `seconds` (infinite: never). A job
    that writes files may end half-way.
    cut: it has no connection for `seconds`, and notices at once.
    partition: nothing passes in either direction for `seconds`. mute: nothing that it sends arrives. deaf: it receives
    nothing. The connection stays up until a keep-alive is missed. While it is up, QoS 1 is only late, as over TCP.
    freeze: it makes no progress for `seconds` (SIGSTOP). suspend: the same, and its clock stands still.
    jump: its clock jumps forward by `seconds`.
    error: its next job fails.
    disk: no file can be written for `seconds`, whichever process of the id tries.
    outage: the broker is down for `seconds` and loses its retained messages. restart: the same, but it keeps them, and
    it may publish last wills when it is back. forget: it loses its retained messages, and every connection stays.

    With `process` = "broker", `after` counts the events of all processes.
    """

    kind: FaultKind
    process: str
    after: int
    seconds: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"{self.kind} is no fault; there are {', '.join(get_args(FaultKind))}")
        if self.process == BROKER and self.kind not in BROKER_FAULTS:
            raise ValueError(f"{self.kind} is the fault of a process, not of the broker")
        if self.after < 0 or not self.seconds >= 0:
            raise ValueError(f"{self.kind} of {self.process}: after = {self.after}, seconds = {self.seconds}: below 0")


@dataclass(frozen=True)
class Faults:
    """Probabilities (for each delivery) and seconds; by default nothing goes wrong.

    `lost` hits only QoS 0; `doubled` and `late` hit every message. A late message arrives up to `longest_delay_s`
    later, after messages that were sent after it; QoS 1 keeps the order within a topic, as in MQTT.
    `skew`: every process's clock starts anywhere, and runs faster or slower by at most this share.
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    longest_delay_s: float = 1.0
    skew: float = 0.0
    injected: tuple[InjectedFault, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lost", "doubled", "late"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not a probability")
        if self.longest_delay_s < 0:
            raise ValueError(f"longest_delay_s = {self.longest_delay_s} is below 0")
        if not 0 <= self.skew < 1:
            raise ValueError(f"skew = {self.skew} is not at least 0 and below 1")

    @property
    def quiet(self) -> bool:
        """Whether the network delivers every message once and in time."""
        return not (self.lost or self.doubled or self.late)


NO_FAULTS = Faults()
