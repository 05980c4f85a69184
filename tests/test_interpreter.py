"""The interpreter of effects: timers and jobs belong to a session, and end with it."""

from dataclasses import dataclass, field
from typing import Any

from mpsl.machines.effects import CancelTimer, Effect, EndSession, Log, Publish, Run, SetTimer, Stop
from mpsl.machines.events import Connected, Event, JobDone, TimerFired
from mpsl.machines.interpreter import Interpreter
from mpsl.machines.jobs import Leave, Prepared, Result
from mpsl.machines.orchestrator_jobs import RecordRound
from mpsl.machines.session_id import SessionId

FIRST, SECOND = SessionId("r", 1), SessionId("r", 2)
JOB = RecordRound({})


@dataclass
class Script:
    """A machine that wants what it is told to want at its next event."""

    wanted: list[Effect] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def will(self) -> Publish:
        return Publish("t", b"")

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.events.append(event)
        wanted, self.wanted = self.wanted, []
        return wanted


@dataclass
class Bench:
    """A host whose clock is moved by hand, and whose worker never ends a job by itself."""

    clock: float = 0.0
    started: list[Run] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)

    def now(self) -> float:
        return self.clock

    def send(self, effect: Any) -> None:
        self.sent.append(effect)

    def start(self, work: Run) -> None:
        self.started.append(work)

    def wake_at(self, at: float) -> None:
        """Nobody is woken here."""

    def log(self, line: Log) -> None:
        self.sent.append(line)

    def stop(self, stop: Stop) -> None:
        self.sent.append(stop)


def parts() -> tuple[Script, Bench, Interpreter]:
    machine, host = Script(), Bench()
    return machine, host, Interpreter(machine, lambda source, message, session: None, host)


def want(machine: Script, interpreter: Interpreter, *effects: Effect) -> None:
    machine.wanted = list(effects)
    interpreter.handle(Connected())


def test_jobs_run_one_at_a_time_in_the_order_given() -> None:
    machine, host, interpreter = parts()
    want(machine, interpreter, Run(JOB, FIRST), Run(JOB, SECOND))
    assert [work.session for work in host.started] == [FIRST]
    interpreter.job_ended(JobDone(JOB, Result(), FIRST))
    assert [work.session for work in host.started] == [FIRST, SECOND]
    assert JobDone(JOB, Result(), FIRST) in machine.events


def test_what_waits_for_a_session_that_ends_is_never_begun_and_its_running_job_answers_nobody() -> None:
    machine, host, interpreter = parts()
    want(machine, interpreter, Run(JOB, FIRST), Run(JOB, FIRST), Run(JOB, SECOND), EndSession(FIRST))
    interpreter.job_ended(JobDone(JOB, Prepared(1), FIRST))
    interpreter.job_ended(JobDone(JOB, Result(), SECOND))
    assert [(type(work.job), work.session) for work in host.started] == [
        (RecordRound, FIRST), (RecordRound, SECOND), (Leave, FIRST)
    ]  # fmt: skip
    assert [event.session for event in machine.events if isinstance(event, JobDone)] == [SECOND]


def test_a_session_that_is_joined_again_hears_of_its_own_jobs_only() -> None:
    """The same run and term: the answer of the former session's job must not be taken for the new one's."""
    machine, host, interpreter = parts()
    want(machine, interpreter, Run(JOB, FIRST), EndSession(FIRST), Run(JOB, FIRST))
    interpreter.job_ended(JobDone(JOB, Prepared(1), FIRST))
    interpreter.job_ended(JobDone(host.started[-1].job, Result(), FIRST))
    interpreter.job_ended(JobDone(JOB, Prepared(2), FIRST))
    assert [event.result for event in machine.events if isinstance(event, JobDone)] == [Prepared(2)]


def test_timers_of_a_session_end_with_it_and_those_of_others_do_not() -> None:
    machine, host, interpreter = parts()
    want(machine, interpreter, *(SetTimer("t", 1.0, session) for session in (FIRST, SECOND, None)))
    want(machine, interpreter, EndSession(FIRST), CancelTimer("t"))
    host.clock = 2.0
    interpreter.fire_timers()
    assert [event for event in machine.events if isinstance(event, TimerFired)] == [TimerFired("t", SECOND)]


def test_timers_fire_in_the_order_of_their_times_and_once() -> None:
    machine, host, interpreter = parts()
    want(machine, interpreter, SetTimer("late", 3.0), SetTimer("early", 1.0), SetTimer("put off", 1.5))
    want(machine, interpreter, SetTimer("put off", 9.0))
    host.clock = 5.0
    interpreter.fire_timers()
    interpreter.fire_timers()
    assert [event.name for event in machine.events if isinstance(event, TimerFired)] == ["early", "late"]
    assert interpreter.next_timer == 9.0


def test_nothing_is_done_after_the_stop() -> None:
    machine, host, interpreter = parts()
    want(machine, interpreter, Stop(0), Run(JOB))
    interpreter.handle(Connected())
    assert len(machine.events) == 1
    assert not host.started
