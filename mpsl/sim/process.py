"""One process of a simulation: a machine, its performer, its worker and its connection.

It is a host of the shared `Interpreter`, like broker/driver.py. Jobs take virtual time, and messages that wait to be
sent are dropped when the connection is lost. It must never look into a message.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from mpsl.errors import DiskError, MpslError
from mpsl.machines.effects import Log, Publish, Run, Stop, Subscribe, Unsubscribe
from mpsl.machines.events import Connected, Disconnected, Event, JobDone, JobFailed, Received, Subscribed
from mpsl.machines.interpreter import DrivenMachine, Interpreter, TimerKey
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.machine import Machine
from mpsl.sim.clock import Clock
from mpsl.sim.cores import SimulatedWorker
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.network import NOTICE_S, SimulatedNetwork
from mpsl.sim.simulated_performer import SimulatedPerformer, SimulatedResult
from mpsl.sim.times import Attachment

BACKOFF_S = 0.5
UNANSWERED_S = 40.0
"""When a process gives up a connection over which nothing comes: two keep-alives of 20 s, until and after its ping."""


@dataclass(frozen=True)
class Environment:
    """The shared environment of all processes of a simulation."""

    queue: EventQueue
    network: SimulatedNetwork
    chance: random.Random
    note: Callable[[str, str, object], None]
    """Takes a line of the trace: (process, what, facts)."""
    on_event: Callable[["Process"], None] | None
    """Called after every event that a process has handled."""
    on_busy: Callable[[str, SimulatedResult, float, float], None]
    """Called after every job: (process, the job's result, start, end)."""
    max_packet: int | None = None
    is_checked: bool = True
    """Whether the trace gets every event, and `machine.validate()` runs after it."""


class _ProcessInterpreter(Interpreter):
    """Traces every event, and delays events while the process is frozen."""

    def __init__(self, process: "Process") -> None:
        super().__init__(process.machine, process.performer.write, process)
        self._process = process
        self._environment = process.environment

    def handle(self, event: Event) -> None:
        process, environment = self._process, self._environment
        if self.stopped:
            return
        if environment.queue.now < process.frozen_until:
            environment.queue.at(process.frozen_until, self.handle, event)
            return
        if environment.is_checked:
            environment.note(process.id, "event", event)
        super().handle(event)
        process.handled += 1
        if process.validate is not None:
            process.validate()
        if environment.on_event is not None:
            environment.on_event(process)


class Process:
    """A process from its start to its stop or crash; `handled` counts its events."""

    def __init__(
        self,
        id: str,
        client: str,
        machine: DrivenMachine,
        performer: SimulatedPerformer,
        attachment: Attachment,
        worker: SimulatedWorker,
        environment: Environment,
        clock: Clock,
    ) -> None:
        self.id = id
        self.client = client
        """The client id, which depends on the boot."""
        self.machine = machine
        self.performer = performer
        self.environment = environment
        self._queue = environment.queue
        self._clock = clock
        self.ended_with: Stop | None = None
        self.crashed = False
        self.handled = 0
        is_checked = environment.is_checked and not Machine.validating  # then the machine does it itself
        self.validate: Callable[[], None] | None = getattr(machine, "validate", None) if is_checked else None
        self._attachment = attachment
        self._worker = worker
        self._interpreter = _ProcessInterpreter(self)
        self._connection: int | None = None
        self._unsent: list[Publish | Subscribe | Unsubscribe] = []
        self._alarm = inf
        """When the timers are checked next."""
        self.frozen_until = 0.0
        self._separated_until = 0.0
        """Until then no connection can be made."""
        self._next_job_fails = False
        self._result: SimulatedResult | None = None
        """Of the running job."""

    @property
    def over(self) -> bool:
        """Whether the process has stopped or crashed."""
        return self.ended_with is not None or self.crashed

    @property
    def job(self) -> WorkerJob | None:
        """The running job."""
        running = self._interpreter.running
        return None if running is None else running.job

    @property
    def unfinished_jobs(self) -> int:
        """The number of jobs that wait or run."""
        return self._interpreter.unfinished_jobs

    @property
    def timers(self) -> dict[TimerKey, float]:
        """The due time of each timer."""
        return self._interpreter.timers

    def connect(self) -> None:
        """Connect; while the broker is down, try again later."""
        network, queue = self.environment.network, self.environment.queue
        if self.over or self._connection is not None:
            return
        if not network.is_up or queue.now < max(self._separated_until, self.frozen_until):
            queue.at(queue.now + BACKOFF_S, self.connect)
            return
        self._connection = network.connect(self.client, self._attachment, self.machine.will, self._received)
        self.handle(Connected(self.environment.max_packet))
        unsent, self._unsent = self._unsent, []
        for effect in unsent:
            self.send(effect)

    def handle(self, event: Event) -> None:
        """Pass an event to the machine, once the process is not frozen."""
        self._interpreter.handle(event)

    # Injected faults

    def crash(self) -> None:
        """Vanish in the middle of any activity."""
        self.environment.note(self.id, "crashed", "")
        self.crashed = self._interpreter.stopped = True
        if self._result is not None and self._result.interrupt is not None:
            self._result.interrupt()
        self.environment.network.cut(self.client)

    def cut(self, seconds: float) -> None:
        """Lose the connection; the next attempt comes after `seconds`."""
        if self._connection is not None and not self.over:
            self.environment.network.cut(self.client)
            self._disconnect(f"cut for {seconds:g} s", seconds)

    def lose_broker(self, seconds: float) -> None:
        """The broker has broken down; the next attempt to connect comes after `seconds`."""
        if self._connection is not None and not self.over:
            self._disconnect("the broker is gone", seconds)

    def separate(self, seconds: float, mute: bool, deaf: bool) -> None:
        """For `seconds`, what it sends does not arrive, or it receives nothing, or both."""
        self.environment.note(self.id, "mute" * mute + "deaf" * deaf, seconds)
        queue, network, number = self.environment.queue, self.environment.network, self._connection
        self._separated_until = max(self._separated_until, queue.now + seconds)
        if number is None or self.over:
            return
        if mute:
            network.mute(self.client, queue.now + seconds)
        if deaf:
            network.deafen(self.client, queue.now + seconds)
        if mute and seconds > NOTICE_S:
            queue.at(queue.now + NOTICE_S, network.expel, self.client, number)
        if mute and not deaf and seconds > NOTICE_S:
            queue.at(queue.now + NOTICE_S, self._lose, number, "the broker missed the keep-alive")
        if deaf and seconds > UNANSWERED_S:
            queue.at(queue.now + UNANSWERED_S, self._lose, number, "the broker has sent nothing")
        elif deaf and mute and seconds > NOTICE_S:
            queue.at(queue.now + seconds, self._lose, number, "the broker missed the keep-alive")

    def freeze(self, seconds: float) -> None:
        """Make no progress for `seconds`; events that arrive meanwhile wait."""
        self.environment.note(self.id, "frozen", seconds)
        queue, number = self.environment.queue, self._connection
        self.frozen_until = max(self.frozen_until, queue.now + seconds)
        if seconds > NOTICE_S and number is not None:
            queue.at(queue.now + NOTICE_S, self.environment.network.expel, self.client, number)
            queue.at(self.frozen_until, self._lose, number, "the broker missed the keep-alive")

    def suspend(self, seconds: float) -> None:
        """Like `freeze`, but its clock stands still as well."""
        self._clock.stop(self._queue.now, seconds)
        self._reset_alarm()
        self.freeze(seconds)

    def jump(self, seconds: float) -> None:
        """Its clock jumps forward by `seconds`."""
        self.environment.note(self.id, "clock", f"jumps by {seconds:g} s")
        self._clock.jump(seconds)
        self._reset_alarm()

    def fail_next_job(self) -> None:
        """The next job that it starts raises an error."""
        self._next_job_fails = True

    def _lose(self, number: int, reason: str) -> None:
        """The connection `number` is gone, from the view of this process."""
        if self._connection == number and not self.over:
            self.environment.network.expel(self.client, number)
            self._disconnect(reason, 0.0)

    def _reset_alarm(self) -> None:
        """The clock has changed, so the timers are due at other virtual times."""
        self._alarm = inf
        if not self.over and (next_timer := self._interpreter.next_timer) is not None:
            self.wake_at(next_timer)

    def _disconnect(self, reason: str, seconds: float) -> None:
        self._connection = None
        self._unsent.clear()
        self.handle(Disconnected(reason))
        pause = seconds + self.environment.chance.uniform(0.5, 1.0) * BACKOFF_S
        self.environment.queue.at(self.environment.queue.now + pause, self.connect)

    # The host of the interpreter

    def now(self) -> float:
        """The time of its own clock."""
        return self._clock.at(self._queue.now)

    def send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        """Pass an effect to the network, or keep it until there is a connection."""
        network, number = self.environment.network, self._connection
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

    def start(self, work: Run) -> None:
        """Perform a job in virtual time."""
        result = self._result = self._perform(work)

        def done(started_at: float) -> None:
            if not self.over:
                self.environment.on_busy(self.id, result, started_at, self._queue.now)
                self._end_job(work, result)

        self._worker.run(result.seconds, done)

    def _perform(self, work: Run) -> SimulatedResult:
        if self._next_job_fails:
            self._next_job_fails = False
            return SimulatedResult(0.0, _fail)
        return self.performer.perform(work.job, work.session)

    def wake_at(self, at: float) -> None:
        """Note the next due time. Links postpone their timer often, and an early alarm costs less than a new one."""
        if at < self._alarm:
            self._alarm = at
            self._queue.at(self._clock.when(at), self._wake, at)

    def log(self, line: Log) -> None:
        """Add a line to the trace."""
        self.environment.note(self.id, line.level, (line.event, line.facts))

    def stop(self, stop: Stop) -> None:
        """The machine has stopped."""
        self.environment.note(self.id, "stopped", stop)
        self.ended_with = stop
        if self._connection is not None:
            self.environment.network.leave(self.client, self._connection)

    def _wake(self, at: float) -> None:
        if at != self._alarm or self.over:
            return  # an earlier alarm has replaced it, or the process has ended
        if self._queue.now < self.frozen_until:
            self._queue.at(self.frozen_until, self._wake, at)
            return
        self._alarm = inf
        next_timer = self._interpreter.next_timer
        if next_timer is not None and next_timer <= self.now():
            self._interpreter.fire_timers()
        elif next_timer is not None:
            self.wake_at(next_timer)

    def _end_job(self, work: Run, result: SimulatedResult) -> None:
        if self.over:
            return
        if self._queue.now < self.frozen_until:
            self._queue.at(self.frozen_until, self._end_job, work, result)
            return
        self._result = None
        outcome: JobDone | JobFailed
        try:
            outcome = JobDone(work.job, result.finish(), work.session)
        except MpslError as error:
            outcome = JobFailed(work.job, str(error), work.session, isinstance(error, DiskError))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            outcome = JobFailed(work.job, reason, work.session, is_unforeseen=True)
        self._interpreter.job_ended(outcome)

    def _received(self, topic: str, payload: bytes) -> None:
        self.handle(Received(topic, payload))

    def _granted(self, number: int) -> None:
        if self._connection == number:
            self.handle(Subscribed())


def _fail() -> Result:
    raise RuntimeError("an injected error")
