"""Which slices of a part have arrived, so that whoever waits for a whole part knows when it is whole.

Counts every slice once: where a link was begun anew, the same slices may come twice.
"""

from mpsl.messages import Slice


class Arrivals:
    """Slices of one version and attempt; the first of another begins anew."""

    def __init__(self) -> None:
        self.version: int | None = None
        self.bytes = 0
        self._attempt = 0
        self._places: set[tuple[int, int, int]] = set()

    def add(self, message: Slice) -> None:
        """Count a slice."""
        if (message.version, message.attempt) != (self.version, self._attempt):
            self.version, self._attempt = message.version, message.attempt
            self.bytes = 0
            self._places.clear()
        place = (message.part, message.index, message.offset)
        if place not in self._places:
            self._places.add(place)
            self.bytes += message.tensor.nbytes
