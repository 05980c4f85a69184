"""Virtual time: what is to happen when. What is due at one moment happens in the order in which it was asked for."""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., None]


class Agenda:
    """Appointments by time; `now` in seconds from the beginning of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.happened = 0
        """How many appointments have been kept."""
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, action: Action, *arguments: Any) -> None:
        """Do `action(*arguments)` at `when`; what lies in the past happens now."""
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, action, arguments))

    def step(self, until: float) -> bool:
        """Go to the next appointment and keep it; False where there is none before `until`."""
        if not self._heap or self._heap[0][0] > until:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.happened += 1
        action(*arguments)
        return True
