"""Performs a machine's effects: the one interpreter that the driver and the simulator share.

It keeps the machine's timers and its queue of jobs, and it ends both with their session. A `Host` supplies the rest: a
clock, a connection, a worker. It must never know what a message or a job means.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from mpsl.errors import IllegalEvent
from mpsl.machines.effects import (
    CancelTimer,
    Effect,
    EndSession,
    Log,
    Publish,
    Run,
    SetTimer,
    Stop,
    Subscribe,
    Unsubscribe,
    Write,
)
from mpsl.machines.events import Event, JobDone, JobFailed, TimerFired
from mpsl.machines.jobs import Leave, Result, Store, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice

TimerKey = tuple[SessionId | None, str]


class DrivenMachine(Protocol):
    """The machine that an interpreter drives."""

    @property
    def will(self) -> Publish: ...

    def handle(self, event: Event, now: float) -> list[Effect]: ...


class Performer(Protocol):
    """Performs the jobs. `perform` runs on the worker, `write` at once; `session` is None for jobs of the process."""

    def perform(self, job: WorkerJob, session: SessionId | None) -> Result: ...

    def write(self, source: str, message: Slice, session: SessionId | None) -> None: ...


class Host(Protocol):
    """The process that runs a machine, real or simulated."""

    def now(self) -> float:
        """Return the seconds of a monotonic clock."""

    def send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        """Hand an effect to the connection, or keep it until there is one."""

    def start(self, work: Run) -> None:
        """Start a job on the idle worker, and call `Interpreter.job_ended` at its end."""

    def wake_at(self, at: float) -> None:
        """Call `Interpreter.fire_timers` at time `at`, or earlier."""

    def log(self, line: Log) -> None:
        """Write one line for people."""

    def stop(self, stop: Stop) -> None:
        """End the process."""


class Interpreter:
    """Passes events to one machine and performs its effects, until it stops."""

    def __init__(
        self, machine: DrivenMachine, write: Callable[[str, Slice, SessionId | None], None], host: Host
    ) -> None:
        self.stopped = False
        self.running: Run | None = None
        """The running job."""
        self._machine = machine
        self._write = write
        self._host = host
        self._jobs: deque[Run] = deque()
        self._timers: dict[TimerKey, float] = {}
        self._ended: set[SessionId] = set()
        """Sessions that have ended while one of their jobs was running."""

    @property
    def unfinished_jobs(self) -> int:
        """The number of jobs that wait or run."""
        return len(self._jobs) + (self.running is not None)

    @property
    def timers(self) -> dict[TimerKey, float]:
        """The due time of each timer."""
        return self._timers

    def handle(self, event: Event) -> None:
        """Pass an event to the machine, unless it has stopped."""
        if self.stopped:
            return
        try:
            effects = self._machine.handle(event, self._host.now())
        except IllegalEvent as error:
            self._host.log(Log("warning", "illegal-event", {"reason": str(error)}))
            return
        send = self._host.send
        for effect in effects:
            # Nearly all effects are publishes, one for every chunk, so they are tested for first.
            if type(effect) is Publish:
                send(effect)
            else:
                self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish() | Subscribe() | Unsubscribe():
                self._host.send(effect)
            case SetTimer(name, at, session):
                self._timers[session, name] = at
                self._host.wake_at(at)
            case CancelTimer(name, session):
                self._timers.pop((session, name), None)
            case Run():
                self._jobs.append(effect)
                self._start_next()
            case Write(source, message, session):
                try:
                    self._write(source, message, session)
                except Exception as error:
                    self.handle(JobFailed(Store(source), f"{type(error).__name__}: {error}", session))
            case EndSession(session, replaced):
                self._end(session, replaced)
            case Log():
                self._host.log(effect)
            case Stop():
                self.stopped = True
                self._host.stop(effect)

    # Timers

    @property
    def next_timer(self) -> float | None:
        """The due time of the earliest timer."""
        return min(self._timers.values(), default=None)

    def fire_timers(self) -> None:
        """Fire the timers that are due, in the order in which they are due."""
        now = self._host.now()
        for at, key in sorted(((at, key) for key, at in self._timers.items() if at <= now), key=lambda due: due[0]):
            if self._timers.get(key) == at:
                del self._timers[key]
                session, name = key
                self.handle(TimerFired(name, session))
        if (at_next := self.next_timer) is not None:
            self._host.wake_at(at_next)

    # Jobs

    def job_ended(self, outcome: JobDone | JobFailed) -> None:
        """Pass the result of `running` to the machine, unless its session has ended since."""
        self.running = None
        session = outcome.session
        if session in self._ended:
            self._ended.discard(session)
        elif session is None or not isinstance(outcome.job, Leave):
            self.handle(outcome)
        self._start_next()

    def _start_next(self) -> None:
        if self.running is None and self._jobs and not self.stopped:
            self.running = self._jobs.popleft()
            self._host.start(self.running)

    def _end(self, session: SessionId, replaced: bool) -> None:
        for key in [key for key in self._timers if key[0] == session]:
            del self._timers[key]
        self._jobs = deque(work for work in self._jobs if work.session != session)
        if self.running is not None and self.running.session == session:
            self._ended.add(session)
        if not replaced:
            self._jobs.append(Run(Leave(), session))
            self._start_next()
