"""Records which slices of a part have arrived, to know when a part is complete.

Every slice counts once. The same slice may arrive twice if a link was started again.
"""

from mpsl.messages import Slice


class Arrivals:
    """The slices of one version and attempt. A slice of another one resets the record."""

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
