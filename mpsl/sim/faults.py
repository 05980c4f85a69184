"""What goes wrong in a simulation: how the network treats messages, and which mishaps befall which process."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Mishap:
    """Befalls `process` when it has handled `after` events, so that any step of the protocol can be hit.

    crash: gone without a word, back with another boot after `seconds` (infinite: never). cut: no connection for
    `seconds`. freeze: no progress for `seconds`. outage: the broker itself is away for `seconds` and forgets what was
    retained.
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
    """Probabilities (for each delivery) and seconds; nothing goes wrong by default.

    `lost` hits only QoS 0; `doubled` and `late` hit all. A late message comes up to `longest_delay_s` later than it
    could, behind others sent after it; QoS 1 keeps the order of its own topic, as MQTT does.
    """

    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    longest_delay_s: float = 1.0
    mishaps: tuple[Mishap, ...] = ()

    def __post_init__(self) -> None:
        for name in ("lost", "doubled", "late"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)} is no probability")
        if self.longest_delay_s < 0:
            raise ValueError(f"longest_delay_s = {self.longest_delay_s} is below 0")

    @property
    def quiet(self) -> bool:
        """Whether the network itself does nothing wrong."""
        return not (self.lost or self.doubled or self.late)
