"""The faults of a simulation: how the network disturbs messages, and which faults are injected into which process."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class InjectedFault:
    """Hits `process` once it has handled `after` events, so that every step of the protocol can be hit.

    crash: the process vanishes without notice and restarts with another boot after `seconds` (infinite: never).
    cut: it has no connection for `seconds`. freeze: it makes no progress for `seconds`. outage: the broker itself is
    down for `seconds` and loses its retained messages.
    """

    kind: Literal["crash", "cut", "freeze", "outage"]
    process: str
    after: int
    seconds: float

    def __post_init__(self) -> None:
        if self.after < 0 or not self.seconds >= 0:
            raise ValueError(f"{self.kind} of {self.process}: after = {self.after}, seconds = {self.seconds}: below 0")


@dataclass(frozen=True)
class Faults:
    """Probabilities (for each delivery) and seconds; by default nothing goes wrong.

    `lost` hits only QoS 0; `doubled` and `late` hit every message. A late message arrives up to `longest_delay_s`
    later, after messages that were sent after it; QoS 1 keeps the order within a topic, as in MQTT.
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    longest_delay_s: float = 1.0
    injected: tuple[InjectedFault, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lost", "doubled", "late"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is not a probability")
        if self.longest_delay_s < 0:
            raise ValueError(f"longest_delay_s = {self.longest_delay_s} is below 0")

    @property
    def quiet(self) -> bool:
        """Whether the network delivers every message once and in time."""
        return not (self.lost or self.doubled or self.late)


NO_FAULTS = Faults()
