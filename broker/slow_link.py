"""Emulates a slow link: computes when a publish that is sent now would arrive, with a token bucket per direction.

Pure: the caller passes the time, in seconds. `broker.slow_connection` does the waiting.
"""

import re
from dataclasses import dataclass

from mpsl.errors import UsageError

_BITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(kbit|mbit|gbit)/([0-9]+(?:\.[0-9]+)?)ms", re.ASCII)


@dataclass(frozen=True)
class LinkSpeed:
    """Rate in bytes a second and one-way latency in seconds, the same in both directions of a full-duplex link."""

    bytes_per_s: float
    latency_s: float

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_s < float("inf") or not 0 <= self.latency_s <= 60:
            raise ValueError("the rate must be above 0 and the latency from 0 to 60 s")


def parse_link(text: str) -> LinkSpeed:
    """Parse a link such as "8mbit/20ms": bits per second in each direction, and one-way latency. Raises UsageError."""
    match = _FORM.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(
            f"--link {text!r}: write the rate in kbit, mbit or gbit (per second) and the one-way latency in ms, "
            "such as 8mbit/20ms, 500kbit/100ms or 1gbit/0ms"
        )
    try:
        return LinkSpeed(float(match[1]) * _BITS[match[2]] / 8, float(match[3]) / 1000)
    except ValueError as error:
        raise UsageError(f"--link {text!r}: {error}") from None


class OneWay:
    """One direction: a bucket that fills with `bytes_per_s` tokens a second and keeps none in reserve.

    So a publish waits until everything before it is sent, and then takes the time of its own bytes. An idle line saves
    nothing up.
    """

    def __init__(self, speed: LinkSpeed) -> None:
        self._speed = speed
        self._free_at = 0.0

    def send(self, nbytes: int, now: float) -> float:
        """Return when the last of `nbytes` passed at `now` is sent; publishes keep their order."""
        self._free_at = max(now, self._free_at) + nbytes / self._speed.bytes_per_s
        return self._free_at

    def queued_s(self, now: float) -> float:
        """Return the seconds until everything is sent."""
        return max(0.0, self._free_at - now)

    def arrival(self, left_at: float) -> float:
        """When bytes that left at that time reach the other end."""
        return left_at + self._speed.latency_s
