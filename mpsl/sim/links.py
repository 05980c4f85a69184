"""Network links in virtual time: whole messages, one after another, at a given rate and latency.

A message passes its process's link and the broker's shared link at the same time, like bytes that are forwarded while
they arrive: the slower link sets the pace. A link loses nothing and keeps the order, except for urgent messages. Faults
happen in the network.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from mpsl.sim.event_queue import Action, EventQueue

Label = tuple[str, str]
"""The kind of a message or a job, and its device ("" if none)."""

OnBusy = Callable[[Label, float, float], None]
"""Called with (label, start, end) whenever a resource was busy."""

_Waiting = tuple[int, Label, Action, tuple[Any, ...]]
"""A message that waits to be sent: its bytes, its label, and the callback for its arrival."""


class SharedLink:
    """One direction of the broker's own link, which all processes share."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def end_of(self, now: float, size: int) -> float:
        """Return when `size` bytes that start now have passed, after those that started earlier."""
        self._free_at = max(now, self._free_at) + size / self._bytes_per_s
        return self._free_at


class SimulatedLink:
    """One direction of a process's link to the broker."""

    def __init__(
        self,
        queue: EventQueue,
        latency_s: float = 0.0,
        bytes_per_s: float = inf,
        shared: SharedLink | None = None,
        on_busy: OnBusy | None = None,
    ) -> None:
        self.latency_s = latency_s
        self._queue = queue
        self._bytes_per_s = bytes_per_s
        self._shared = shared
        self._on_busy = on_busy
        self._has_rate = bytes_per_s != inf or shared is not None
        self._urgent: deque[_Waiting] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._sending = False

    def send(self, size: int, label: Label, then: Action, *arguments: Any, is_urgent: bool = False) -> None:
        """Send `size` bytes after all earlier ones; one latency later call `then(*arguments)`.

        An urgent message only waits for earlier urgent ones, and for the message that is being sent.
        """
        if not self._has_rate:
            self._queue.at(self._queue.now + self.latency_s, then, *arguments)
            return
        (self._urgent if is_urgent else self._waiting).append((size, label, then, arguments))
        if not self._sending:
            self._next()

    def _next(self) -> None:
        waiting = self._urgent or self._waiting
        if not waiting:
            self._sending = False
            return
        self._sending = True
        now = self._queue.now
        size, label, then, arguments = waiting.popleft()
        end = now + size / self._bytes_per_s
        if self._shared is not None:
            end = max(end, self._shared.end_of(now, size))
        self._queue.at(end, self._sent, now, label, then, arguments)

    def _sent(self, started_at: float, label: Label, then: Action, arguments: tuple[Any, ...]) -> None:
        now = self._queue.now
        if self._on_busy is not None:
            self._on_busy(label, started_at, now)
        self._queue.at(now + self.latency_s, then, *arguments)
        self._next()
