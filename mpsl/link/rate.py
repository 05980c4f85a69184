"""How fast one link delivers, estimated from its acknowledgements, and how much may therefore be under way.

The estimate is a delivery rate, as BBR takes it (Cardwell et al., 2016): bytes acknowledged between the sending of a
chunk and its acknowledgement, over that time. A link holds about two seconds of that rate in flight. More would only
stand in a queue of the broker, in front of the acknowledgements and the signs of life that share the stream. Pure: it
is told the time, in seconds.
"""

QUEUE_S = 1.5
"""Seconds of the link that may be queued, beyond its round trip."""
CHUNK_S = 0.5
"""Seconds of the link that one chunk may take: whatever is urgent waits for one to end."""
MIN_CHUNK = 32 * 1024
FIRST_WINDOW = 128 * 1024
"""Bytes in flight while nothing is known: a second of 1 Mbit/s, and no more than one round trip on a fast link."""
FIRST_CHUNK = FIRST_WINDOW // 2
MIN_SAMPLE = 32 * 1024
"""Bytes below which a delivery that nothing waited behind says nothing: it measures the round trip, not the rate."""
MIN_RATE = 125_000.0
"""Bytes a second (1 Mbit/s) that are assumed of a link of which nothing is known."""


class DeliveryRate:
    """The delivery rate of one link.

    `window` and `chunk_bytes` are upper bounds in bytes. Without `paced`, they apply as they are.
    """

    def __init__(self, window: int, chunk_bytes: int, paced: bool) -> None:
        self.bytes_per_s: float | None = None
        self._measured: float | None = None
        """As acknowledgements have said last: it does not fall because none come."""
        self.delivered = 0
        """Bytes acknowledged so far."""
        self.delivered_at = 0.0
        self._max_window = window
        self._max_chunk = chunk_bytes
        self._paced = paced
        self._round_trip_s: float | None = None
        """The shortest so far."""
        self.window = window
        """Bytes that may be in flight: at least a chunk."""
        self.chunk_bytes = chunk_bytes
        """The largest body of a chunk of the next message."""
        self._follow()

    def _follow(self) -> None:
        """Set what follows from the rate; it is asked for with every chunk."""
        if not self._paced:
            return
        rate = self.bytes_per_s
        wanted = FIRST_CHUNK if rate is None else int(rate * CHUNK_S)
        self.chunk_bytes = min(self._max_chunk, max(MIN_CHUNK, wanted))
        window = FIRST_WINDOW if rate is None else int(rate * (QUEUE_S + (self._round_trip_s or 0.0)))
        self.window = min(self._max_window, max(self.chunk_bytes, window))

    def seconds_for(self, nbytes: int) -> float:
        """How long so many bytes take, as far as is known; longer with each retry that was not answered."""
        return nbytes / (self.bytes_per_s or MIN_RATE)

    def measured_seconds_for(self, nbytes: int) -> float:
        """How long so many bytes took when something was last acknowledged; 0 where that was never measured.

        Unlike `seconds_for` it does not grow while a peer that has died answers nothing.
        """
        return nbytes / self._measured if self._measured else 0.0

    def begin(self, now: float) -> None:
        """A chunk is sent while nothing is in flight: the time until now says nothing of the rate."""
        self.delivered_at = now

    def acknowledged(
        self, nbytes: int, sent_at: float, delivered: int, delivered_at: float, now: float, limited: bool
    ) -> None:
        """`nbytes` more have arrived; the newest chunk of them was sent at `sent_at`, and never again.

        `delivered` and `delivered_at` are what they were when it was sent. `limited`: more is waiting to be sent, so
        the window is what holds the link up.
        """
        self.count(nbytes, now)
        self._round_trip_s = min(self._round_trip_s or now - sent_at, now - sent_at)
        sample_bytes = self.delivered - delivered
        if now <= delivered_at or not (limited or sample_bytes >= MIN_SAMPLE):
            return
        sample = sample_bytes / (now - delivered_at)
        if self.bytes_per_s is None or sample >= self.bytes_per_s:
            self.bytes_per_s = sample
        elif limited:
            self.bytes_per_s += 0.3 * (sample - self.bytes_per_s)
        self._measured = self.bytes_per_s
        self._follow()

    def count(self, nbytes: int, now: float) -> None:
        """`nbytes` more have arrived, and it is not known when they were sent: they may have been sent twice."""
        self.delivered += nbytes
        self.delivered_at = now

    def unanswered(self) -> None:
        """No acknowledgement came in time: the link may have become slower."""
        if self.bytes_per_s is not None:
            self.bytes_per_s = max(1.0, self.bytes_per_s / 2)
            self._follow()
