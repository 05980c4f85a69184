"""One process of a rehearsal: a machine that nothing befalls, its pretended jobs, the thread that would compute them.

Performs the effects as broker/driver.py does: jobs one at a time in the order given, slices written at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from mpsl.errors import RunFailed
from mpsl.machines.effects import (
    CancelTimer,
    Effect,
    Log,
    Publish,
    Run,
    SetTimer,
    Stop,
    Subscribe,
    Unsubscribe,
    Write,
)
from mpsl.machines.events import Connected, Event, JobDone, Received, Subscribed, TimerFired
from mpsl.machines.machine import Machine
from mpsl.sim.agenda import Agenda
from mpsl.sim.cores import Worker
from mpsl.sim.pretence import Pretence
from mpsl.sim.record import COMPUTE, Record
from mpsl.sim.timed_network import TimedNetwork

Note = Callable[[Log], None]


@dataclass
class TimedProcess:
    """A process from its start to the end of the rehearsal; `note` hears what its machine says."""

    id: str
    machine: Machine
    pretence: Pretence
    worker: Worker
    agenda: Agenda
    network: TimedNetwork
    record: Record
    note: Note
    _timers: dict[str, float] = field(default_factory=dict)

    def begin(self) -> None:
        """It is connected."""
        self._handle(Connected(None))

    def received(self, topic: str, payload: bytes) -> None:
        """A message has arrived."""
        self._handle(Received(topic, payload))

    def _handle(self, event: Event) -> None:
        if self.machine.stopped:
            return
        for effect in self.machine.handle(event, self.agenda.now):
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish():
                self.network.publish(self.id, effect)
            case Subscribe(filters):
                self.network.subscribe(self.id, filters)
                self.agenda.at(self.agenda.now, self._handle, Subscribed())
            case Unsubscribe(filters):
                self.network.unsubscribe(self.id, filters)
            case Run(job):
                pretended = self.pretence.perform(job)

                def done(began: float) -> None:
                    if pretended.what:
                        label = (pretended.what, pretended.device)
                        self.record.span(self.id, COMPUTE, label, began, self.agenda.now)
                    pretended.ended()
                    self._handle(JobDone(job, pretended.result))

                self.worker.run(pretended.seconds, done)
            case SetTimer(name, at):
                if self._timers.get(name) != at:
                    self._timers[name] = at
                    self.agenda.at(at, self._timer, name, at)
            case CancelTimer(name):
                self._timers.pop(name, None)
            case Log():
                self.note(effect)
            case Stop(status, reason) if status:
                raise RunFailed(f"{self.id} would stop: {reason}")
            case Write() | Stop():
                pass

    def _timer(self, name: str, at: float) -> None:
        if self._timers.get(name) == at:
            del self._timers[name]
            self._handle(TimerFired(name))
