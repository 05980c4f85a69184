"""The durations of a simulation, one of its two inputs; the faults are the other.

The base class `Times` is a network without limits. A subclass gives processes real links, cores and CPU costs. It must
only decide when something happens, never what.
"""

from dataclasses import dataclass

from mpsl.publish import Publish
from mpsl.sim.cores import Cores, SimulatedWorker
from mpsl.sim.event_queue import Action, EventQueue
from mpsl.sim.links import Label, OnBusy, SimulatedLink

DEFAULT_LATENCY_S = 0.001


class ByteProcessor:
    """The thread that sends and receives for a process, or the broker's own thread: it spends CPU time on each byte."""

    def __init__(self, queue: EventQueue, worker: SimulatedWorker, s_per_byte: float, on_busy: OnBusy) -> None:
        self._queue = queue
        self._worker = worker
        self._s_per_byte = s_per_byte
        self._on_busy = on_busy

    def process(self, size: int, label: Label, then: Action, *arguments: object) -> None:
        """Process `size` bytes after all earlier ones; then call `then(*arguments)`."""
        if not self._s_per_byte:
            now = self._queue.now
            self._on_busy(label, now, now)
            then(*arguments)
            return

        def done(started_at: float) -> None:
            self._on_busy(label, started_at, self._queue.now)
            then(*arguments)

        self._worker.run(size * self._s_per_byte, done)


@dataclass(frozen=True)
class Attachment:
    """How a process is attached to the broker; without a `processor` its bytes cost no CPU time."""

    up: SimulatedLink
    down: SimulatedLink
    processor: ByteProcessor | None = None


class Times:
    """Links with one millisecond and unlimited bandwidth; every process has its own core."""

    broker: ByteProcessor | None = None
    """The broker's thread; without it, the broker takes no time."""
    is_lossless = False
    """Whether nothing is ever lost and nobody disconnects.

    Then a repeated tensor is not sent again, because a repeat only means that its acknowledgement is late; and a
    message without a size is routed at once, to arrive after both latencies.
    """

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue

    def attachment(self, process: str) -> Attachment:
        """Return the links of a process. Called once for each id, so that a restarted process keeps them."""
        up, down = (SimulatedLink(self.queue, DEFAULT_LATENCY_S) for _ in range(2))
        return Attachment(up, down)

    def worker(self, process: str) -> SimulatedWorker:
        """Return the thread that performs the jobs of a process. Called at each start."""
        return SimulatedWorker(self.queue, Cores(self.queue))

    def size_of(self, publish: Publish) -> int | None:
        """Return the bytes on the wire; None for a small message, which only takes the latencies and never waits."""
        return len(publish.payload)

    def in_transit(self, change: int) -> None:
        """Called when the bytes between senders and receivers change."""


def after_processing(
    processor: ByteProcessor | None, size: int | None, label: Label, then: Action, *arguments: object
) -> None:
    """Call `then(*arguments)` once `processor` has processed the bytes; at once if there is nothing to process."""
    if processor is None or size is None:
        then(*arguments)
    else:
        processor.process(size, label, then, *arguments)
