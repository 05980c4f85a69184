"""The clock of one simulated process: it may start anywhere, run fast or slow, jump forward, and stand still.

Machines measure time by their own clock alone, so none may assume that another's shows the same. Virtual time, the
time of the event queue, is what really passes.
"""

from math import inf, nextafter


class Clock:
    """Shows `start` at virtual time `virtual`, and then `rate` seconds for every virtual second."""

    def __init__(self, rate: float = 1.0, start: float = 0.0, virtual: float = 0.0) -> None:
        if not rate > 0:
            raise ValueError(f"rate = {rate} is not above 0")
        self._rate = rate
        self._shown = start
        self._virtual = virtual

    def at(self, virtual: float) -> float:
        """Return what the clock shows at a virtual time."""
        if virtual <= self._virtual:
            return self._shown
        return self._shown + (virtual - self._virtual) * self._rate

    def when(self, shown: float) -> float:
        """Return the virtual time at which the clock shows this time, or the moment after it."""
        if shown == inf:
            return inf
        virtual = self._virtual + (shown - self._shown) / self._rate
        while virtual > self._virtual and self.at(virtual) < shown:
            virtual = nextafter(virtual, inf)  # otherwise an alarm would come just before its timer is due
        return virtual

    def jump(self, seconds: float) -> None:
        """Show a later time from now on."""
        self._shown += seconds

    def stop(self, virtual: float, seconds: float) -> None:
        """Stand still for `seconds` from `virtual` on, as the monotonic clock of a suspended computer does."""
        self._shown, self._virtual = self.at(virtual), max(virtual, self._virtual) + seconds
