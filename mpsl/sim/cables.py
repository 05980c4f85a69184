"""How long a message is on its way: a cable each direction, with bandwidth and latency; loses nothing, keeps order."""

from collections.abc import Callable

from mpsl.machines.effects import Publish


class Cable:
    """One direction of a process's link to the broker, or the broker's own; `bytes_per_s` None: only latency."""

    def __init__(self, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        self._latency_s = latency_s
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self.busy_s = 0.0
        """Seconds spent on sending so far."""

    def arrival(self, now: float, size: int) -> float:
        """When `size` bytes handed over at `now` are through, behind those that were handed over before."""
        if self._bytes_per_s is None:
            return now + self._latency_s
        seconds = size / self._bytes_per_s
        self.busy_s += seconds
        self._free_at = max(now, self._free_at) + seconds
        return self._free_at + self._latency_s


Weigh = Callable[[Publish], int]
"""How many bytes a publish counts for: its payload's, or what stands for it where payloads only pretend."""


def payload_bytes(publish: Publish) -> int:
    """What a publish really holds."""
    return len(publish.payload)
