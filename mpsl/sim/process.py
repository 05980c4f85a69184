"""One process of a simulation: a machine, its performer and its worker. Performs the effects as broker/driver.py does.

Jobs run one at a time in the order given and take virtual time; slices are written at once; what waits to be sent is
forgotten when the connection is lost. It must never look into a message.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mpsl.errors import IllegalEvent, MpslError
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
from mpsl.machines.events import Connected, Disconnected, Event, JobDone, JobFailed, Received, Subscribed, TimerFired
from mpsl.machines.interpreter import Performer
from mpsl.machines.jobs import Job, Store
from mpsl.machines.machine import Machine
from mpsl.sim.agenda import Agenda
from mpsl.sim.cables import Cable
from mpsl.sim.network import NOTICE_S, Network

BACKOFF_S = 0.5

Duration = Callable[[str, Job], float]
"""Virtual seconds of a job of the process so called; infinite for one that never ends."""


@dataclass(frozen=True)
class Surroundings:
    """What all processes of a simulation share. `note(process, what, facts)` takes a line of the trace."""

    agenda: Agenda
    network: Network
    chance: random.Random
    duration: Duration
    note: Callable[[str, str, object], None]
    max_packet: int | None = None


@dataclass
class Process:
    """A process from its start to its stop or crash; `handled` counts its events, `on_event` hears of each."""

    id: str
    client: str
    """The client id: another one for every boot."""
    machine: Machine
    performer: Performer
    cables: tuple[Cable, Cable]
    surroundings: Surroundings
    on_event: Callable[["Process"], None]
    stop: Stop | None = None
    crashed: bool = False
    handled: int = 0
    busy_s: float = 0.0
    """Virtual seconds that the worker has worked."""
    job: Job | None = None
    """What the worker works on."""
    _connection: int | None = None
    _unsent: list[Effect] = field(default_factory=list)
    _jobs: deque[Job] = field(default_factory=deque)
    _timers: dict[str, float] = field(default_factory=dict)
    _frozen_until: float = 0.0

    @property
    def over(self) -> bool:
        """Whether it has stopped or crashed."""
        return self.stop is not None or self.crashed

    @property
    def unfinished_jobs(self) -> int:
        """Jobs that wait or run."""
        return len(self._jobs) + (self.job is not None)

    def connect(self) -> None:
        """Try to connect, until the broker is there."""
        around = self.surroundings
        if self.over or self._connection is not None:
            return
        if not around.network.is_up:
            around.agenda.at(around.agenda.now + BACKOFF_S, self.connect)
            return
        will: Publish = self.machine.will  # type: ignore[attr-defined]
        self._connection = around.network.connect(self.client, self.cables, will, self._received)
        self._handle(Connected(around.max_packet))
        unsent, self._unsent = self._unsent, []
        for effect in unsent:
            self._perform(effect)

    # Mishaps

    def crash(self) -> None:
        """Gone in the middle of whatever it does."""
        self.surroundings.note(self.id, "crashed", "")
        self.crashed = True
        self.surroundings.network.cut(self.client)

    def cut(self, seconds: float) -> None:
        """Lose the connection; the next try comes after `seconds`."""
        if self._connection is not None and not self.over:
            self.surroundings.network.cut(self.client)
            self._lose(f"cut for {seconds:g} s", seconds)

    def lose(self, seconds: float) -> None:
        """The broker has broken down."""
        if self._connection is not None and not self.over:
            self._lose("the broker is gone", seconds)

    def freeze(self, seconds: float) -> None:
        """Make no progress for `seconds`; what arrives meanwhile waits."""
        self.surroundings.note(self.id, "frozen", seconds)
        agenda = self.surroundings.agenda
        self._frozen_until = agenda.now + seconds
        if seconds > NOTICE_S and self._connection is not None:
            agenda.at(agenda.now + NOTICE_S, self.surroundings.network.expel, self.client)
            agenda.at(self._frozen_until, self._thaw, self._connection)

    def _thaw(self, number: int) -> None:
        if self._connection == number and not self.over:
            self._lose("the broker missed the keep-alive", 0.0)

    def _lose(self, reason: str, seconds: float) -> None:
        self._connection = None
        self._unsent.clear()
        self._handle(Disconnected(reason))
        pause = seconds + self.surroundings.chance.uniform(0.5, 1.0) * BACKOFF_S
        self.surroundings.agenda.at(self.surroundings.agenda.now + pause, self.connect)

    # Events

    def _received(self, topic: str, payload: bytes) -> None:
        self._handle(Received(topic, payload))

    def _handle(self, event: Event) -> None:
        agenda = self.surroundings.agenda
        if self.over:
            return
        if agenda.now < self._frozen_until:
            agenda.at(self._frozen_until, self._handle, event)
            return
        self.surroundings.note(self.id, "event", event)
        try:
            effects = self.machine.handle(event, agenda.now)
        except IllegalEvent as error:
            self.surroundings.note(self.id, "illegal", error)
            return
        for effect in effects:
            self._perform(effect)
        self.handled += 1
        self.on_event(self)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish() | Subscribe() | Unsubscribe():
                self._send(effect)
            case Run(job):
                self._jobs.append(job)
                self._work()
            case Write(source, message, session):
                try:
                    self.performer.write(source, message, session)
                except Exception as error:
                    self._handle(JobFailed(Store(source), f"{type(error).__name__}: {error}", session))
            case SetTimer(name, at):
                if self._timers.get(name) != at:
                    self._timers[name] = at
                    self.surroundings.agenda.at(at, self._timer, name, at)
            case CancelTimer(name):
                self._timers.pop(name, None)
            case Log(level, event, facts):
                self.surroundings.note(self.id, level, (event, facts))
            case Stop():
                self.surroundings.note(self.id, "stopped", effect)
                self.stop = effect
                if self._connection is not None:
                    self.surroundings.network.leave(self.client, self._connection)

    def _send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        network, number = self.surroundings.network, self._connection
        if number is None:
            self._unsent.append(effect)
            return
        match effect:
            case Publish():
                network.publish(self.client, number, effect)
            case Subscribe(filters):
                network.subscribe(self.client, number, filters, lambda: self._granted(number))
            case Unsubscribe(filters):
                network.unsubscribe(self.client, number, filters)

    def _granted(self, number: int) -> None:
        if self._connection == number:
            self._handle(Subscribed())

    def _timer(self, name: str, at: float) -> None:
        if self._timers.get(name) != at or self.over:
            return  # replaced, cancelled, or nobody is there
        if self.surroundings.agenda.now < self._frozen_until:
            self.surroundings.agenda.at(self._frozen_until, self._timer, name, at)
            return
        del self._timers[name]
        self._handle(TimerFired(name))

    # The worker

    def _work(self) -> None:
        if self.job is not None or not self._jobs:
            return
        job = self.job = self._jobs.popleft()
        agenda = self.surroundings.agenda
        seconds = self.surroundings.duration(self.id, job)
        self.busy_s += seconds
        # What is written while a job runs may come before or after it: try both.
        if self.surroundings.chance.random() < 0.5:
            agenda.at(agenda.now + seconds, self._job_ended, self._outcome(job))
        else:
            agenda.at(agenda.now + seconds, self._perform_and_end, job)

    def _perform_and_end(self, job: Job) -> None:
        if not self.over:
            self._job_ended(self._outcome(job))

    def _outcome(self, job: Job) -> JobDone | JobFailed:
        try:
            # Of the real clock nothing may reach virtual time: the same seed gives the same run.
            return JobDone(job, replace(self.performer.perform(job, None), coding_s=0.0))
        except MpslError as error:
            return JobFailed(job, str(error))
        except Exception as error:
            return JobFailed(job, f"{type(error).__name__}: {error}")

    def _job_ended(self, outcome: JobDone | JobFailed) -> None:
        if self.over:
            return
        if self.surroundings.agenda.now < self._frozen_until:
            self.surroundings.agenda.at(self._frozen_until, self._job_ended, outcome)
            return
        self.job = None
        self._handle(outcome)
        self._work()
