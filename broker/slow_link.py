"""A slow link, emulated: when a publish that is handed over now would arrive, by a token bucket for each direction.

Pure: it is told the time, in seconds, and never looks at a clock. Who waits until then is `broker.slow_connection`.
"""

import re
from dataclasses import dataclass

from mpsl.errors import UsageError

_BITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(kbit|mbit|gbit)/([0-9]+(?:\.[0-9]+)?)ms", re.ASCII)


@dataclass(frozen=True)
class LinkSpeed:
    """Of either direction of a full-duplex link: bytes a second, and seconds from one end to the other."""

    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_s < float("inf") or not 0 <= self.latency_s <= 60:
            raise ValueError("a link has a rate above 0 and a latency from 0 to 60 s")


def parse_link(text: str) -> LinkSpeed:
    """The link that "8mbit/20ms" describes: bits a second in each direction, and the way there. Raises UsageError."""
    match = _FORM.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(
            f"--link {text!r}: write the rate in kbit, mbit or gbit (a second) and the latency of one way in ms, "
            "such as 8mbit/20ms, 500kbit/100ms or 1gbit/0ms"
        )
    try:
        return LinkSpeed(float(match[1]) * _BITS[match[2]] / 8, float(match[3]) / 1000)
    except ValueError as error:
        raise UsageError(f"--link {text!r}: {error}") from None


class OneWay:
    """One direction: a bucket that fills with `bytes_per_s` tokens a second and never holds any in reserve.

    So what is handed over waits until everything before it has left, and then takes its own bytes' time; an idle line
    saves nothing up.
    """

    def __init__(self, speed: LinkSpeed) -> None:
        self._speed = speed
        self._free_at = 0.0

    def send(self, nbytes: int, now: float) -> float:
        """When the last of `nbytes` that are handed over at `now` has left; in order, whatever the caller does."""
        self._free_at = max(now, self._free_at) + nbytes / self._speed.bytes_per_s
        return self._free_at

    def queued_s(self, now: float) -> float:
        """Seconds until all that was handed over has left."""
        return max(0.0, self._free_at - now)

    def arrival(self, left_at: float) -> float:
        """When what left at that time is at the other end."""
        return left_at + self._speed.latency_s
