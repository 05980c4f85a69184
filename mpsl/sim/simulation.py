"""A whole system in virtual time: processes start, run, suffer injected faults and end, until all are over.

Faults and times are its two inputs. The same seed gives the same run, event for event. A process that has not stopped
at the deadline is named.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mpsl.machines.effects import Publish, Stop
from mpsl.machines.interpreter import DrivenMachine
from mpsl.names import BROKER
from mpsl.sim.clock import Clock
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.faults import BROKER_FAULTS, Faults, InjectedFault
from mpsl.sim.network import SimulatedNetwork
from mpsl.sim.process import Environment, Process
from mpsl.sim.simulated_performer import SimulatedPerformer, SimulatedResult
from mpsl.sim.times import Attachment, Times
from mpsl.sim.trace import Trace

Start = Callable[[str], tuple[DrivenMachine, SimulatedPerformer]]
"""Makes the machine and performer of a process with this boot."""

Note = Callable[[float, str, str, object], None]
"""Takes a line of the trace: (virtual seconds, process, what, facts)."""

TRACE_LENGTH = 2000
MAX_UPTIME_S = 1e6
"""A skewed clock shows at most this when its process starts."""


def ignore_job(process: str, result: SimulatedResult, start: float, end: float) -> None:
    """Ignore a job."""


@dataclass(frozen=True)
class SimulationEnd:
    """How a simulation ended: when, how each process stopped (crashed ones are missing), and who never did."""

    seconds: float
    events: int
    stops: dict[str, Stop]
    hung: list[str] = field(default_factory=list)


class Simulation:
    """Add the processes, then `run`.

    `on_event` is called after every event that a process has handled, `on_busy` after every job. `note` takes the lines
    of the trace instead of `trace`. `is_checked`: the trace gets every event, and
    `machine.validate()` runs after it.
    """

    def __init__(
        self,
        chance: random.Random,
        faults: Faults,
        times: Times,
        on_event: Callable[[Process], None] | None = None,
        on_busy: Callable[[str, SimulatedResult, float, float], None] = ignore_job,
        note: Note | None = None,
        max_packet: int | None = None,
        trace_length: int = TRACE_LENGTH,
        is_checked: bool = True,
    ) -> None:
        self.queue: EventQueue = times.queue
        self.trace = Trace(trace_length)
        self.network = SimulatedNetwork(self.queue, chance, faults, times)
        self.processes: dict[str, Process] = {}
        """The newest process of each id."""
        self.pending_starts = 0
        """The number of processes that will start or restart."""
        self._chance = chance
        self._times = times
        self._note_taker = note or self.trace.note
        self._environment = Environment(
            self.queue,
            self.network,
            chance,
            self._note,
            self._after_event if on_event is not None or faults.injected else None,
            on_busy,
            max_packet,
            is_checked,
        )
        self.disk_fails_until: dict[str, float] = {}
        """By id, the virtual time until which its processes can write no file."""
        self.handled = 0
        """The number of events that all processes have handled; counted only where faults are injected."""
        self._skew = faults.skew
        self._clocks: dict[str, Clock] = {}
        """By id: a process that starts again is on the same computer."""
        self._attachments: dict[str, Attachment] = {}
        self._on_event = on_event
        self._starts: dict[str, Start] = {}
        self._faults: dict[str, list[InjectedFault]] = {}
        for fault in sorted(faults.injected, key=lambda fault: fault.after):
            self._faults.setdefault(fault.process, []).append(fault)

    def add(self, id: str, start: Start, at: float = 0.0) -> None:
        """Start a process `id` at time `at`; after a crash it is created again with another boot."""
        self._starts[id] = start
        self.pending_starts += 1
        self.queue.at(at, self._start, id)

    def run(self, until: float) -> SimulationEnd:
        """Run until all processes have stopped or crashed for good. Those left at `until` (seconds) are reported."""
        while not self.is_over:
            if not self.queue.step(until):
                self.queue.now = until
                break
        stops = {id: process.ended_with for id, process in self.processes.items() if process.ended_with is not None}
        return SimulationEnd(self.queue.now, self.queue.handled, stops, sorted(self._hung()))

    def inject(self, fault: InjectedFault) -> None:
        """Inject a fault now, whatever its `after`."""
        if fault.kind in BROKER_FAULTS:
            self._inject_into_broker(fault)
            return
        process, seconds = self.processes[fault.process], fault.seconds
        match fault.kind:
            case "crash":
                process.crash()
                if math.isfinite(seconds):
                    self.pending_starts += 1
                    self.queue.at(self.queue.now + seconds, self._start, process.id)
            case "cut":
                process.cut(seconds)
            case "partition" | "mute" | "deaf":
                process.separate(seconds, mute=fault.kind != "deaf", deaf=fault.kind != "mute")
            case "freeze":
                process.freeze(seconds)
            case "suspend":
                process.suspend(seconds)
            case "jump":
                process.jump(seconds)
            case "error":
                process.fail_next_job()
            case "disk":
                self._note(process.id, "disk", f"fails for {seconds:g} s")
                self.disk_fails_until[process.id] = self.queue.now + seconds

    def _inject_into_broker(self, fault: InjectedFault) -> None:
        if fault.kind == "forget":
            self._note(BROKER, "forgets", "all retained messages")
            self.network.forget()
            return
        self._note(BROKER, "is gone", fault.seconds)
        wills = self.network.break_down(forgets=fault.kind == "outage")
        if fault.kind == "outage" or self._chance.random() < 0.5:
            wills = []
        self.queue.at(self.queue.now + fault.seconds, self._restore_broker, wills)
        for each in list(self.processes.values()):
            each.lose_broker(fault.seconds)

    @property
    def is_over(self) -> bool:
        """Whether all processes have stopped or crashed for good."""
        return not self.pending_starts and all(process.over for process in self.processes.values())

    def _hung(self) -> Iterator[str]:
        for id, process in self.processes.items():
            if not process.over:
                state = getattr(process.machine, "state", None)
                yield f"{id} ({getattr(state, 'value', state)})"

    def _start(self, id: str) -> None:
        self.pending_starts -= 1
        boot = f"{self._chance.getrandbits(32):08x}"
        machine, performer = self._starts[id](boot)
        if id not in self._attachments:
            self._attachments[id] = self._times.attachment(id)
        attachment, worker = self._attachments[id], self._times.worker(id)
        clock = self._clocks[id] = self._clocks.get(id) or self._any_clock()
        process = Process(id, f"{id}-{boot}", machine, performer, attachment, worker, self._environment, clock)
        self.processes[id] = process
        self._note(id, "begins", boot)
        process.connect()

    def _note(self, process: str, what: str, fact: object) -> None:
        self._note_taker(self.queue.now, process, what, fact)

    def _after_event(self, process: Process) -> None:
        if self._on_event is not None:
            self._on_event(process)
        self.handled += 1
        due = self._faults.get(process.id)
        while due and process.handled >= due[0].after and not process.over:
            self.inject(due.pop(0))
        due = self._faults.get(BROKER)
        while due and self.handled >= due[0].after and self.network.is_up:
            self.inject(due.pop(0))

    def _any_clock(self) -> Clock:
        if not self._skew:
            return Clock()
        rate = self._chance.uniform(1 - self._skew, 1 + self._skew)
        return Clock(rate, self._chance.uniform(0, MAX_UPTIME_S), self.queue.now)

    def _restore_broker(self, wills: list[Publish]) -> None:
        self._note(BROKER, "is back", "")
        self.network.come_up(wills)
