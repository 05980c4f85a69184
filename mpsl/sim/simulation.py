"""A whole system in virtual time: processes come, run, meet their mishaps and go, until all are over or time is up.

The same seed gives the same run, event for event. Who has not stopped at the deadline is named.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mpsl.machines.effects import Stop
from mpsl.machines.interpreter import Performer
from mpsl.machines.machine import Machine
from mpsl.sim.agenda import Agenda
from mpsl.sim.cables import Cable, Weigh, payload_bytes
from mpsl.sim.faults import Faults, Mishap
from mpsl.sim.network import Network
from mpsl.sim.process import Duration, Process, Surroundings
from mpsl.sim.trace import Trace

Start = Callable[[str], tuple[Machine, Performer]]
"""Makes the machine and performer of a process with this boot."""

Cables = Callable[[str], tuple[Cable, Cable]]
"""The cables of a process, to and from the broker."""

TRACE_LENGTH = 2000
LATENCY_S = 0.001
NO_FAULTS = Faults()


def short_cables(process: str) -> tuple[Cable, Cable]:
    """A millisecond each way, whatever the size."""
    return Cable(LATENCY_S), Cable(LATENCY_S)


def no_time(process: str, job: object) -> float:
    """Jobs that take no time."""
    return 0.0


@dataclass(frozen=True)
class Ending:
    """How a simulation ended: when, how each process stopped (crashed ones are missing), and who never did."""

    seconds: float
    events: int
    stops: dict[str, Stop]
    hung: list[str] = field(default_factory=list)


class Simulation:
    """Add the processes, then `run`. `watch` is called after every event that a process has handled."""

    def __init__(
        self,
        chance: random.Random,
        faults: Faults = NO_FAULTS,
        duration: Duration = no_time,
        cables: Cables = short_cables,
        weigh: Weigh = payload_bytes,
        watch: Callable[[Process], None] | None = None,
        max_packet: int | None = None,
        trace_length: int = TRACE_LENGTH,
    ) -> None:
        self.agenda = Agenda()
        self.trace = Trace(trace_length)
        self.network = Network(self.agenda, chance, faults, weigh)
        self.processes: dict[str, Process] = {}
        """The newest process of each id."""
        self._chance = chance
        self._surroundings = Surroundings(self.agenda, self.network, chance, duration, self._note, max_packet)
        self._cables = cables
        self._known_cables: dict[str, tuple[Cable, Cable]] = {}
        self._watch = watch
        self._starts: dict[str, Start] = {}
        self.coming = 0
        """Processes that have yet to begin, or to come back."""
        self._mishaps: dict[str, list[Mishap]] = {}
        for mishap in sorted(faults.mishaps, key=lambda mishap: mishap.after):
            self._mishaps.setdefault(mishap.process, []).append(mishap)

    def add(self, id: str, start: Start, at: float = 0.0) -> None:
        """A process `id` that begins at `at`; after a crash it is made anew with another boot."""
        self._starts[id] = start
        self.coming += 1
        self.agenda.at(at, self._begin, id)

    def run(self, until: float) -> Ending:
        """Go on until everyone has stopped or crashed for good; at `until` (virtual seconds) whoever is left hangs."""
        while not self._is_over():
            if not self.agenda.step(until):
                self.agenda.now = until
                break
        stops = {id: process.stop for id, process in self.processes.items() if process.stop is not None}
        return Ending(self.agenda.now, self.agenda.happened, stops, sorted(self._left()))

    def _is_over(self) -> bool:
        return not self.coming and all(process.over for process in self.processes.values())

    def _left(self) -> Iterator[str]:
        for id, process in self.processes.items():
            if not process.over:
                state = getattr(process.machine, "state", None)
                yield f"{id} ({getattr(state, 'value', state)})"

    def _begin(self, id: str) -> None:
        self.coming -= 1
        boot = f"{self._chance.getrandbits(32):08x}"
        machine, performer = self._starts[id](boot)
        if id not in self._known_cables:
            self._known_cables[id] = self._cables(id)
        cables = self._known_cables[id]
        process = Process(id, f"{id}-{boot}", machine, performer, cables, self._surroundings, self._after_event)
        self.processes[id] = process
        self._note(id, "begins", boot)
        process.connect()

    def _note(self, process: str, what: str, fact: object) -> None:
        self.trace.note(self.agenda.now, process, what, fact)

    def _after_event(self, process: Process) -> None:
        if self._watch is not None:
            self._watch(process)
        due = self._mishaps.get(process.id)
        while due and process.handled >= due[0].after and not process.over:
            self._befall(process, due.pop(0))

    def _befall(self, process: Process, mishap: Mishap) -> None:
        match mishap.kind:
            case "crash":
                process.crash()
                if math.isfinite(mishap.seconds):
                    self.coming += 1
                    self.agenda.at(self.agenda.now + mishap.seconds, self._begin, process.id)
            case "cut":
                process.cut(mishap.seconds)
            case "freeze":
                process.freeze(mishap.seconds)
            case "outage":
                self._note("broker", "is gone", mishap.seconds)
                self.network.break_down()
                self.agenda.at(self.agenda.now + mishap.seconds, self._broker_back)
                for each in list(self.processes.values()):
                    each.lose(mishap.seconds)

    def _broker_back(self) -> None:
        self._note("broker", "is back", "")
        self.network.is_up = True
