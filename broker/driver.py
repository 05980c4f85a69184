"""Runs a machine for real: performs its effects over a connection, on a worker thread and by the clock.

One named, owned task each for receiving, sending binary, sending JSON, timing and working, in a TaskGroup: when one
fails all end. It must never know what a message means, nor which role it drives.
"""

import asyncio
import contextlib
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from broker.address import BrokerAddress
from broker.connection import CONNECT_S, Connection, Refused, connect
from broker.log import Logger
from mpsl.errors import BrokerError, IllegalEvent, MpslError
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
from mpsl.machines.events import (
    Connected,
    Disconnected,
    Event,
    JobDone,
    JobFailed,
    Received,
    StopRequested,
    Subscribed,
    TimerFired,
)
from mpsl.machines.jobs import Job, Result, Store
from mpsl.messages import Slice

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
LAST_ATTEMPT_S = 1.0
"""The least time that an attempt to connect gets, also when patience is about to end."""
MAX_TOGETHER = 64
"""Publishes that go out in one call of the system,"""
MAX_TOGETHER_BYTES = 1024 * 1024
"""and their bytes: a message costs as much as some ten thousand bytes, most of it in the system, and in the broker."""
DRAIN_S = 5.0
FAREWELL_S = 2.0
"""How long the queue may take to empty at the end, and the goodbye after it."""


class Machine(Protocol):
    """What is driven."""

    @property
    def will(self) -> Publish: ...

    def handle(self, event: Event, now: float) -> list[Effect]: ...


class Performer(Protocol):
    """What does the jobs; `perform` on the worker thread, `write` in the event loop."""

    def perform(self, job: Job) -> Result: ...

    def write(self, source: str, message: Slice) -> None: ...


class Outbox:
    """What waits to be sent, in order; emptied when the connection is lost, for the links send again by themselves."""

    def __init__(self) -> None:
        self._entries: deque[Effect] = deque()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def put(self, effect: Effect) -> None:
        """Queue an effect."""
        self._entries.append(effect)
        self._filled.set()
        self._empty.clear()

    async def next(self) -> Sequence[Effect]:
        """The oldest effect, with publishes at QoS 0 those that follow and are small; queued until they are `done`."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        together: list[Effect] = []
        room = MAX_TOGETHER_BYTES
        for effect in itertools.islice(self._entries, MAX_TOGETHER):
            if not isinstance(effect, Publish) or effect.qos:
                break
            room -= len(effect.payload)
            if together and room < 0:
                break
            together.append(effect)
        return together or [self._entries[0]]

    def done(self, count: int) -> None:
        """The `count` oldest effects have been performed."""
        for _ in range(count):
            self._entries.popleft()
        if not self._entries:
            self._empty.set()

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._empty.set()

    async def empty(self) -> None:
        """Wait until all is sent."""
        await self._empty.wait()


class Driver:
    """Drives one machine until it stops, and then ends `worker`, the one thread that computes.

    `patience_s`: give up when the first connection takes longer; None: never. `think_s`: how many seconds
    longer than its computing each job takes, as on a slower processor; others of the same worker do not wait for it.
    """

    def __init__(
        self,
        machine: Machine,
        performer: Performer,
        address: BrokerAddress,
        client_id: str,
        log: Logger,
        patience_s: float | None = None,
        worker: ThreadPoolExecutor | None = None,
        think_s: Callable[[Job], float] | None = None,
    ) -> None:
        self._machine = machine
        self._performer = performer
        self._address = address
        self._client_id = client_id
        self._log = log
        self._patience_s = patience_s
        self._think_s = think_s
        self._binary = Outbox()
        self._json = Outbox()
        self._jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._timers: dict[str, float] = {}
        self._timer_due = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        """Sets `_timer_due` when the earliest timer is due, or earlier where that one was put off meanwhile."""
        self._stopped: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._connection_open = False

    async def run(self) -> Stop:
        """Drive until the machine stops; raises BrokerError when the broker refuses us or was never reached."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_connected(), name="connection"),
                    group.create_task(self._timing(), name="timing"),
                    group.create_task(self._working(), name="working"),
                ]
                stop = await self._first_of(self._stopped, *tasks)
                if self._connection_open:
                    # It sends what is queued and says goodbye before it ends.
                    await asyncio.wait(tasks[:1], timeout=DRAIN_S + FAREWELL_S)
                for task in tasks:
                    task.cancel()
        except* MpslError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)
        return stop

    def request_stop(self) -> None:
        """A person or the system wants an end."""
        self._handle(StopRequested())

    async def _first_of(self, stopped: "asyncio.Future[Stop]", *tasks: "asyncio.Task[None]") -> Stop:
        either: list[asyncio.Future[Any]] = [stopped, *tasks]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        return await stopped

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _handle(self, event: Event) -> None:
        if self._stopped.done():
            return
        try:
            effects = self._machine.handle(event, self._now())
        except IllegalEvent as error:
            self._log("warning", "illegal-event", {"reason": str(error)})
            return
        for effect in effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Publish(qos=0) | Subscribe() | Unsubscribe():
                self._binary.put(effect)
            case Publish():
                self._json.put(effect)
            case SetTimer(name, at):
                self._timers[name] = at
                self._wake_at(at)
            case Run(job):
                self._jobs.put_nowait(job)
            case Write(source, message):
                try:
                    self._performer.write(source, message)
                except Exception as error:
                    self._handle(JobFailed(Store(source), f"{type(error).__name__}: {error}"))
            case CancelTimer(name):
                self._timers.pop(name, None)
            case Log(level, event, facts):
                self._log(level, event, facts)
            case Stop():
                self._stopped.set_result(effect)

    def _wake_at(self, at: float) -> None:
        """Links put their timer off with every message: that must not cost a turn of the event loop."""
        if self._alarm is None or at < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = asyncio.get_running_loop().call_at(at, self._timer_due.set)

    async def _timing(self) -> None:
        try:
            while True:
                await self._timer_due.wait()
                self._timer_due.clear()
                self._alarm = None
                now = self._now()
                for name in [name for name, at in self._timers.items() if at <= now]:
                    if self._timers.pop(name, None) is not None:
                        self._handle(TimerFired(name))
                if self._timers:
                    self._wake_at(min(self._timers.values()))
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _working(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            job = await self._jobs.get()
            try:
                result = await loop.run_in_executor(self._worker, self._performer.perform, job)
                if self._think_s is not None:
                    await asyncio.sleep(self._think_s(job))
            except MpslError as error:
                self._handle(JobFailed(job, str(error)))
            except Exception as error:
                self._log("debug", "job-raised", {"job": type(job).__name__, "error": repr(error)})
                self._handle(JobFailed(job, f"{type(error).__name__}: {error}"))
            else:
                self._handle(JobDone(job, result))

    async def _keep_connected(self) -> None:
        """Connect, and again with jittered backoff whenever the connection is lost, until the machine stops."""
        deadline = math.inf if self._patience_s is None else self._now() + self._patience_s
        backoff = FIRST_BACKOFF_S
        while True:
            reason = "the connection ended"
            attempt_s = max(LAST_ATTEMPT_S, min(CONNECT_S, deadline - self._now()))
            try:
                async with connect(self._address, self._client_id, self._machine.will, attempt_s) as connection:
                    backoff = FIRST_BACKOFF_S
                    deadline = math.inf
                    self._connection_open = True
                    await self._connected(connection)
            except Refused:
                raise
            except BrokerError as error:
                reason = str(error)
            finally:
                self._connection_open = False
            self._binary.clear()
            self._json.clear()
            if self._stopped.done():
                return
            if self._now() >= deadline:
                raise BrokerError(f"{reason}; gave up after {self._patience_s:g} s")
            self._handle(Disconnected(reason))
            pause = min(random.uniform(0.5, 1.0) * backoff, deadline - self._now())
            self._log("warning", "retry", {"broker": self._address.shown, "seconds": round(pause, 1), "reason": reason})
            await asyncio.sleep(pause)
            backoff = min(MAX_BACKOFF_S, 2 * backoff)

    async def _connected(self, connection: Connection) -> None:
        """Everything that goes on while connected; returns when the machine has stopped and all is sent."""
        self._handle(Connected(connection.max_packet))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._receiving(connection), name="receiving"),
                    group.create_task(self._sending(connection, self._binary), name="sending-binary"),
                    group.create_task(self._sending(connection, self._json), name="sending-json"),
                ]
                either: list[asyncio.Future[Any]] = [self._stopped, *tasks]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if self._stopped.done():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(DRAIN_S):
                            await self._binary.empty()
                            await self._json.empty()
                for task in tasks:
                    task.cancel()
        except* BrokerError as errors:
            raise errors.exceptions[0] from None

    async def _receiving(self, connection: Connection) -> None:
        async for arrived in connection.messages():
            self._handle(Received(arrived.topic, arrived.payload))

    async def _sending(self, connection: Connection, outbox: Outbox) -> None:
        while True:
            effects = await outbox.next()
            match effects:
                case [Subscribe(filters)]:
                    await connection.subscribe(filters)
                    self._handle(Subscribed())
                case [Unsubscribe(filters)]:
                    await connection.unsubscribe(filters)
                case [Publish(qos=1) as publish]:
                    await connection.publish(publish)
                case _:
                    await connection.publish_together([each for each in effects if isinstance(each, Publish)])
            outbox.done(len(effects))
