"""Virtual time: a queue of scheduled actions. Actions that are due at the same time run in the order of scheduling.

It must never read a real clock.
"""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., object]


class EventQueue:
    """Scheduled actions by time; `now` is in seconds since the start of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.handled = 0
        """Number of actions that have run."""
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Action, *arguments: Any) -> None:
        """Run `action(*arguments)` at time `when`, or now if that time has passed."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action, arguments))

    def step(self, until: float) -> bool:
        """Advance to the next action and run it. Returns False if none is due by `until`."""
        if not self._heap or self._heap[0][0] > until:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.handled += 1
        action(*arguments)
        return True
