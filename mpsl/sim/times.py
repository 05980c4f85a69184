"""How long everything takes in a simulation: one input of the simulator; the faults are the other.

The base class `Times` is a network without limits; a subclass gives processes real links, cores and CPU costs. It must
never decide what happens, only when.
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
    """Links of one millisecond and no limit of bandwidth; every process has a core of its own."""

    broker: ByteProcessor | None = None
    """Without it, the broker takes no time."""
    is_lossless = False
    """Whether nothing is ever lost and nobody disconnects.

    Then a tensor that a sender repeats does not travel again, for a repeat says no more than that the acknowledgement
    takes long; and a message without a size is routed at once, to arrive after both latencies.
    """

    def __init__(self, queue: EventQueue) -> None:
        self.queue = queue

    def attachment(self, process: str) -> Attachment:
        """The links of a process; asked for once for each id, so that a restarted process keeps them."""
        up, down = (SimulatedLink(self.queue, DEFAULT_LATENCY_S) for _ in range(2))
        return Attachment(up, down)

    def worker(self, process: str) -> SimulatedWorker:
        """The thread that performs the jobs of a process; asked for at each start."""
        return SimulatedWorker(self.queue, Cores(self.queue))

    def size_of(self, publish: Publish) -> int | None:
        """Bytes on the wire; None for a message so small that it takes only the latencies and waits for no other."""
        return len(publish.payload)

    def in_transit(self, change: int) -> None:
        """Called when the bytes that have left a sender and not reached their receiver change."""


def after_processing(
    processor: ByteProcessor | None, size: int | None, label: Label, then: Action, *arguments: object
) -> None:
    """Call `then(*arguments)` once `processor` has processed the bytes; at once where there is nothing to process."""
    if processor is None or size is None:
        then(*arguments)
    else:
        processor.process(size, label, then, *arguments)
