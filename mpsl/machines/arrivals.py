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


class PartArrivals:
    """What has arrived of a part: what trains of it, round by round, and its frozen parameters once."""

    def __init__(self) -> None:
        self.weights_bytes = 0
        """The bytes of what trains."""
        self._frozen_bytes = 0
        self._trained, self._frozen = Arrivals(), Arrivals()
        self._complete: int | None = None

    def expect(self, weights_bytes: int, frozen_bytes: int) -> None:
        """The part is built, so its bytes are known."""
        self.weights_bytes, self._frozen_bytes = weights_bytes, frozen_bytes

    def add(self, message: Slice) -> None:
        """Count a slice."""
        if message.purpose == "frozen":
            self._frozen.add(message)
            return
        self._trained.add(message)
        if self._trained.bytes == self.weights_bytes:
            self.keep(message.version)
            self._trained = Arrivals()

    def keep(self, version: int) -> None:
        """What trains is complete, as committed in round `version`."""
        self._complete = version

    @property
    def has_frozen(self) -> bool:
        """Whether all frozen parameters have arrived."""
        return self._frozen.bytes >= self._frozen_bytes

    def take_whole(self) -> int | None:
        """Return the round whose part has arrived completely, once; None while something is missing."""
        if not self.has_frozen:
            return None
        version, self._complete = self._complete, None
        return version
