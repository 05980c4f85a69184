"""Drives a real machine: with a connection, a worker thread and the clock.

A TaskGroup holds one named task each for receiving, sending binary, sending JSON, timers and jobs. If one fails, all
end. It must never know what a message means, nor which role it drives.
"""

import asyncio
import contextlib
import math
import os
import random
import secrets
import time
from typing import Any

from broker.address import BrokerAddress
from broker.connection import CONNECT_S, Connection, Refused, connect
from broker.log import Logger
from broker.outbox import JsonOutbox, Outbox
from broker.own_certificate import ending_soon
from broker.refusals import PublishRefused
from broker.worker import Worker
from mpsl.errors import BrokerError, DiskError, MpslError, UsageError
from mpsl.machines import machine as machines
from mpsl.machines.effects import Log, Publish, Run, Stop, Subscribe, Unsubscribe
from mpsl.machines.events import (
    Connected,
    Disconnected,
    JobDone,
    JobFailed,
    Received,
    StopRequested,
    Subscribed,
    Warned,
)
from mpsl.machines.interpreter import DrivenMachine, Interpreter, Performer

VALIDATE = "MPSL_VALIDATE"
"""The environment variable that makes machines check their invariants after every event. Tests set it."""
FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 30.0
BACKOFF_SHARE = 0.1
"""The pause grows by this share of the time since the connection was lost: no outage lasts much longer for it."""
CERTIFICATE_S = 3600.0
"""How often our certificate is looked at."""
SECRET_BYTES = 8
"""Random bytes of a client id that nobody else knows."""
LAST_ATTEMPT_S = 1.0
"""The minimum time of an attempt to connect, even if patience is nearly over."""
MAX_UNANSWERED = 16
"""The maximum number of JSON publishes without an answer. Brokers allow at least 20."""
DRAIN_S = 5.0
FAREWELL_S = 2.0
"""How long the queue may take to drain at the end; below, the disconnect after it."""


class Driver:
    """Drives one machine until it stops, and then closes `worker`; the host of its interpreter.

    `patience_s`: give up if the first connection takes longer; None: never.
    """

    def __init__(
        self,
        machine: DrivenMachine,
        performer: Performer,
        address: BrokerAddress,
        client_id: str,
        log: Logger,
        patience_s: float | None = None,
        worker: Worker | None = None,
    ) -> None:
        if VALIDATE in os.environ:
            machines.Machine.validating = True
        self._machine = machine
        self._performer = performer
        self._interpreter = Interpreter(machine, performer.write, self)
        self._address = address
        # A broker disconnects a client when another one connects with its client id, whatever the user of that one. So
        # nobody may know ours; the boot in it is published.
        self._client_id = f"{client_id}-{secrets.token_hex(SECRET_BYTES)}"
        self._log = log
        self._patience_s = patience_s
        self._binary = Outbox()
        self._json = JsonOutbox()
        self._telling: set[asyncio.Task[None]] = set()
        """One task for each JSON publish that the broker has not answered yet."""
        self._work: asyncio.Queue[Run] = asyncio.Queue(1)
        self._timer_due = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        """Sets `_timer_due` when the earliest timer is due, or earlier if that timer was postponed since."""
        self._loop = asyncio.get_running_loop()
        self._stopped: asyncio.Future[Stop] = self._loop.create_future()
        self._worker = worker or Worker()
        self._connection_open = False
        self._has_connected = False

    async def run(self) -> Stop:
        """Drive until the machine stops. Raises BrokerError if the broker refuses the process or is never reached."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_connected(), name="connection"),
                    group.create_task(self._timing(), name="timing"),
                    group.create_task(self._working(), name="working"),
                    group.create_task(self._watching_certificate(), name="certificate"),
                ]
                stop = await self._first_of(self._stopped, *tasks)
                if self._connection_open:
                    # It sends what is queued and disconnects before it ends.
                    await asyncio.wait(tasks[:1], timeout=DRAIN_S + FAREWELL_S)
                for task in tasks:
                    task.cancel()
        except* MpslError as errors:
            raise errors.exceptions[0] from None
        finally:
            self._worker.close()
        return stop

    def request_stop(self) -> None:
        """Ask the machine to stop, on behalf of a person or the system."""
        self._interpreter.handle(StopRequested())

    async def _first_of(self, stopped: "asyncio.Future[Stop]", *tasks: "asyncio.Task[None]") -> Stop:
        either: list[asyncio.Future[Any]] = [stopped, *tasks]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
        return await stopped

    # The host of the interpreter

    def now(self) -> float:
        """The event loop's clock."""
        return self._loop.time()

    def send(self, effect: Publish | Subscribe | Unsubscribe) -> None:
        """Queue an effect for the connection. JSON has its own queue, so that it never waits behind payload."""
        if isinstance(effect, Publish) and effect.qos:
            self._json.put(effect)
        else:
            self._binary.put(effect)

    def start(self, work: Run) -> None:
        """Hand a job to the worker."""
        self._work.put_nowait(work)

    def wake_at(self, at: float) -> None:
        """Note the next due time. Links postpone their timer with every message, which must cost little."""
        if self._alarm is None or at < self._alarm.when():
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_at(at, self._timer_due.set)

    def log(self, line: Log) -> None:
        """Write one line for people."""
        self._log(line.level, line.event, line.facts)

    def stop(self, stop: Stop) -> None:
        """The machine has stopped."""
        self._stopped.set_result(stop)

    async def _timing(self) -> None:
        try:
            while True:
                await self._timer_due.wait()
                self._timer_due.clear()
                self._alarm = None
                self._interpreter.fire_timers()
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    async def _watching_certificate(self) -> None:
        """Warn before our certificate ends, and say so in the machine's status; a renewed file ends the warning."""
        said = ""
        while self._address.cert is not None:
            warning = ending_soon(self._address.cert, time.time())
            if warning != said:
                if warning:
                    self._log("warning", "certificate-ends", {"reason": warning})
                self._interpreter.handle(Warned(warning))
                said = warning
            await asyncio.sleep(CERTIFICATE_S)
        await asyncio.wait([self._stopped])

    async def _working(self) -> None:
        while True:
            work = await self._work.get()
            outcome: JobDone | JobFailed
            try:
                outcome = JobDone(work.job, await self._worker.perform(self._performer, work), work.session)
            except MpslError as error:
                outcome = JobFailed(work.job, str(error), work.session, isinstance(error, DiskError))
            except Exception as error:
                self._log("debug", "job-raised", {"job": type(work.job).__name__, "error": repr(error)})
                reason = f"{type(error).__name__}: {error}"
                outcome = JobFailed(work.job, reason, work.session, is_unforeseen=True)
            self._interpreter.job_ended(outcome)

    async def _keep_connected(self) -> None:
        """Connect, and reconnect with jittered backoff, until the machine stops."""
        deadline = math.inf if self._patience_s is None else self.now() + self._patience_s
        lost_at = self.now()
        while True:
            reason = "the connection ended"
            attempt_s = max(LAST_ATTEMPT_S, min(CONNECT_S, deadline - self.now()))
            try:
                async with connect(self._address, self._client_id, self._machine.will, attempt_s) as connection:
                    deadline = math.inf
                    self._connection_open = self._has_connected = True
                    await self._connected(connection)
            except Refused:
                raise
            except BrokerError as error:
                reason = str(error)
            except UsageError as error:
                # A certificate that is being renewed: it and its key are two files.
                if not self._has_connected:
                    raise
                reason = str(error)
            finally:
                if self._connection_open:
                    lost_at = self.now()
                self._connection_open = False
            self._binary.clear()
            self._json.clear()
            if self._stopped.done():
                return
            if self.now() >= deadline:
                raise BrokerError(f"{reason}; gave up after {self._patience_s:g} s")
            self._interpreter.handle(Disconnected(reason))
            backoff = min(MAX_BACKOFF_S, FIRST_BACKOFF_S + BACKOFF_SHARE * (self.now() - lost_at))
            pause = min(random.uniform(0.5, 1.0) * backoff, deadline - self.now())
            self._log("warning", "retry", {"broker": self._address.shown, "seconds": round(pause, 1), "reason": reason})
            await asyncio.sleep(pause)

    async def _connected(self, connection: Connection) -> None:
        """Run the tasks of one connection. Returns when the machine has stopped and all is sent."""
        self._interpreter.handle(Connected(connection.max_packet, connection.is_private))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._receiving(connection), name="receiving"),
                    group.create_task(self._sending(connection), name="sending-binary"),
                    group.create_task(self._sending_json(connection, group), name="sending-json"),
                ]
                either: list[asyncio.Future[Any]] = [self._stopped, *tasks]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if self._stopped.done():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(DRAIN_S):
                            await self._binary.empty()
                            await self._json.empty()
                for task in [*tasks, *self._telling]:
                    task.cancel()
        except* BrokerError as errors:
            raise errors.exceptions[0] from None

    async def _receiving(self, connection: Connection) -> None:
        async for arrived in connection.messages():
            self._interpreter.handle(Received(arrived.topic, arrived.payload))

    async def _sending(self, connection: Connection) -> None:
        while True:
            effects = await self._binary.next()
            match effects:
                case [Subscribe(filters)]:
                    await connection.subscribe(filters)
                    self._interpreter.handle(Subscribed())
                case [Unsubscribe(filters)]:
                    await connection.unsubscribe(filters)
                case _:
                    await connection.publish_together([each for each in effects if isinstance(each, Publish)])
            self._binary.done(len(effects))

    async def _sending_json(self, connection: Connection, group: asyncio.TaskGroup) -> None:
        """Send JSON without waiting for the answer to the publish before, which takes seconds behind a slow link."""
        free = asyncio.Semaphore(MAX_UNANSWERED)

        def answered(task: "asyncio.Task[None]") -> None:
            self._telling.discard(task)
            free.release()

        while True:
            await free.acquire()
            publish = await self._json.next()
            task = group.create_task(self._tell(connection, publish), name="telling")
            self._telling.add(task)
            task.add_done_callback(answered)

    async def _tell(self, connection: Connection, publish: Publish) -> None:
        try:
            await connection.publish(publish)
        except PublishRefused as error:
            # The connection goes on. A machine that misses its own status reports it.
            self._log("error", "publish-refused", {"topic": error.topic, "reason": str(error)})
        self._json.answered()
