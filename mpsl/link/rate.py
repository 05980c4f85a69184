"""Estimates the rate of one link from its acknowledgements, and from that the window.

The estimate is a delivery rate as in BBR (Cardwell et al., 2016): the bytes acknowledged between the sending of a chunk
and its acknowledgement, divided by that time. A link holds about two seconds of that rate in flight. More would only
wait in a queue of the broker, in front of the acknowledgements and signs of life that share the stream. Pure: the
caller passes the time, in seconds.
"""

QUEUE_S = 1.5
"""Seconds of the link that may be queued, beyond its round trip."""
CHUNK_S = 0.5
"""Seconds of the link that one chunk may take, because urgent packets wait for its end."""
MIN_CHUNK = 32 * 1024
FIRST_WINDOW = 128 * 1024
"""Bytes in flight before the first measurement: a second at 1 Mbit/s, and at most one round trip on a fast link."""
FIRST_CHUNK = FIRST_WINDOW // 2
MIN_SAMPLE = 32 * 1024
"""A smaller delivery that nothing waited behind is ignored: it measures the round trip, not the rate."""
MIN_RATE = 125_000.0
"""The assumed rate of a link before its first measurement, in bytes a second (1 Mbit/s)."""


class DeliveryRate:
    """The delivery rate of one link.

    `window` and `chunk_bytes` are upper bounds in bytes. Without `paced`, they apply as they are.
    """

    def __init__(self, window: int, chunk_bytes: int, paced: bool) -> None:
        self.bytes_per_s: float | None = None
        self._measured: float | None = None
        """The last measured rate; it does not fall while no acknowledgements arrive."""
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
        """Compute the window and the chunk size once for each rate, because every chunk asks for them."""
        if not self._paced:
            return
        rate = self.bytes_per_s
        wanted = FIRST_CHUNK if rate is None else int(rate * CHUNK_S)
        self.chunk_bytes = min(self._max_chunk, max(MIN_CHUNK, wanted))
        window = FIRST_WINDOW if rate is None else int(rate * (QUEUE_S + (self._round_trip_s or 0.0)))
        self.window = min(self._max_window, max(self.chunk_bytes, window))

    def seconds_for(self, nbytes: int) -> float:
        """Return the estimated seconds for `nbytes`. It grows with each unanswered retry."""
        return nbytes / (self.bytes_per_s or MIN_RATE)

    def measured_seconds_for(self, nbytes: int) -> float:
        """Return the seconds for `nbytes` at the last measured rate; 0 before the first measurement.

        Unlike `seconds_for`, it does not grow while a dead peer does not answer.
        """
        return nbytes / self._measured if self._measured else 0.0

    def begin(self, now: float) -> None:
        """Note that a chunk is sent while nothing is in flight, so that the idle time before it does not count."""
        self.delivered_at = now

    def acknowledged(
        self, nbytes: int, sent_at: float, delivered: int, delivered_at: float, now: float, limited: bool
    ) -> None:
        """Note that `nbytes` more have arrived; their newest chunk was sent once, at `sent_at`.

        `delivered` and `delivered_at` are the values from when it was sent. `limited`: more is waiting to be sent, so
        the window limits the link.
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
        """Note that `nbytes` more have arrived that may have been sent twice, so that their sending time is unknown."""
        self.delivered += nbytes
        self.delivered_at = now

    def unanswered(self) -> None:
        """Note that no acknowledgement came in time. The link may have become slower."""
        if self.bytes_per_s is not None:
            self.bytes_per_s = max(1.0, self.bytes_per_s / 2)
            self._follow()
