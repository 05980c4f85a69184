"""Times of a rehearsal: the links, cores and CPU costs of a planned fleet, at a pace of virtual time.

Only tensors have a size: a few bytes stand for a tensor, whose size is in their `shape`. Everything else takes only the
latencies, because it passes between chunks. The orchestrator's own computation and link cost nothing, as in the
planner's objective.
"""

from dataclasses import dataclass
from math import inf

from mpsl.names import BROKER, ORCHESTRATOR
from mpsl.planning.system import Hardware, System
from mpsl.publish import Publish
from mpsl.sim.cores import Cores, SimulatedWorker
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.links import Label, OnBusy, SharedLink, SimulatedLink
from mpsl.sim.timeline import DOWN, UP, WIRE_CPU, Timeline
from mpsl.sim.times import Attachment, ByteProcessor, Times

NO_HARDWARE = Hardware((), 0.0, 0.0, 1, inf)


@dataclass(frozen=True)
class _Computer:
    """A process's computer: its cores, how fast they are, its link's rates (bytes/s) and latency (s)."""

    cores: Cores
    hardware: Hardware
    up: float
    down: float
    latency: float


class FleetTimes(Times):
    """`pace`: virtual seconds for each second of the system. What is busy is recorded in `timeline`."""

    is_lossless = True

    def __init__(
        self, queue: EventQueue, system: System, broker_link_mbps: float, pace: float, timeline: Timeline
    ) -> None:
        super().__init__(queue)
        self._system = system
        self._pace = pace
        self._timeline = timeline
        self._hosts = {name: Cores(queue, cores) for name, cores in system.hosts.items()}
        self._computers = self._all_computers()
        self._inward, self._outward = (SharedLink(broker_link_mbps * 1e6 / 8 / pace) for _ in range(2))
        cores = Cores(queue) if system.broker_host is None else self._hosts[system.broker_host]
        # Even if its speed is unknown, because a trace shows when each message passes the broker.
        self.broker = self._processor(BROKER, cores, system.broker_s_per_byte)

    def attachment(self, process: str) -> Attachment:
        """Return the links of a process, and the thread that sends and receives."""
        computer, latency = self._computers[process], self._computers[process].latency * self._pace
        s_per_byte = computer.hardware.wire_s_per_byte
        up_busy, down_busy = (None if process == ORCHESTRATOR else self._recorded(process, lane) for lane in (UP, DOWN))
        return Attachment(
            SimulatedLink(self.queue, latency, computer.up / self._pace, self._inward, up_busy),
            SimulatedLink(self.queue, latency, computer.down / self._pace, self._outward, down_busy),
            self._processor(process, computer.cores, s_per_byte) if s_per_byte else None,
        )

    def worker(self, process: str) -> SimulatedWorker:
        """Return the computing thread, or all threads of its hardware, which always work together."""
        computer = self._computers[process]
        return SimulatedWorker(self.queue, computer.cores, computer.hardware.threads)

    def size_of(self, publish: Publish) -> int | None:
        """Return the bytes that a message stands for; None if it is not a tensor."""
        for key, value in publish.properties:
            if key == "shape":
                return int(value) or None
        return None

    def in_transit(self, change: int) -> None:
        """Record the bytes in flight."""
        self._timeline.transit(change, self.queue.now)

    def _processor(self, process: str, cores: Cores, s_per_byte: float) -> ByteProcessor:
        worker = SimulatedWorker(self.queue, cores)
        return ByteProcessor(self.queue, worker, s_per_byte * self._pace, self._recorded(process, WIRE_CPU))

    def _recorded(self, process: str, lane: str) -> OnBusy:
        def busy(label: Label, start: float, end: float) -> None:
            self._timeline.span(process, lane, label, start, end)

        return busy

    def _all_computers(self) -> dict[str, _Computer]:
        system = self._system
        computers = {ORCHESTRATOR: _Computer(Cores(self.queue), NO_HARDWARE, inf, inf, 0.0)}
        for node in system.nodes:
            cores = self._cores(node.hardware, node.host)
            computers[node.id] = _Computer(cores, node.hardware, node.rate, node.rate, system.broker_latency)
        for device in system.devices:
            cores = self._cores(device.hardware, device.host)
            computers[device.id] = _Computer(cores, device.hardware, device.up, device.down, device.latency)
        return computers

    def _cores(self, hardware: Hardware, host: str | None) -> Cores:
        return Cores(self.queue, hardware.cores) if host is None else self._hosts[host]
