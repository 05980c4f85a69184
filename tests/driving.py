"""Drivers for tests: machines that only note what they hear, and the devices of a network of their own."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np

from broker.address import BrokerAddress
from broker.connection import Connection
from broker.driver import Driver
from device_agent.performer import DevicePerformer
from device_agent.shard_source import Shard
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Effect, Publish, Stop
from mpsl.machines.events import (
    Event,
    StopRequested,
)
from mpsl.machines.machine import from_json
from mpsl.topics import Topics, client_id

PATIENCE_S = 150.0
"""How long a test waits for what surely comes: also a process that imports torch on a machine under load.

Below the 180 s after which pytest ends a test without a word on what it waited for.
"""


def silent(level: str, event: str, facts: object) -> None:
    """A log that nobody reads."""


class Recorder:
    """A machine that keeps what happens, does what `answer` says, and can be waited for."""

    def __init__(self, topics: Topics, answer: Callable[[Event], list[Effect]] | None = None) -> None:
        self.events: list[Event] = []
        self.now = 0.0
        self._answer = answer or (lambda event: [])
        self._topics = topics
        self._changed = asyncio.Event()

    @property
    def will(self) -> Publish:
        return Publish(self._topics.participant("dev", "recorder", "status"), b'{"state":"lost"}', 1, True)

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.now = now
        self.events.append(event)
        self._changed.set()
        if isinstance(event, StopRequested):
            return [*self._answer(event), Stop(0)]
        return self._answer(event)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def next_event(self) -> None:
        """Wait until anything has happened."""
        self._changed.clear()
        async with asyncio.timeout(PATIENCE_S):
            await self._changed.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds; it is looked at whenever something has happened."""
        while not condition():
            await self.next_event()


class NoJobs:
    """A performer of a machine that asks for none."""

    def perform(self, job: Any, session: Any = None) -> Any:
        raise AssertionError("no job is asked for")

    def write(self, source: str, message: Any, session: Any = None) -> None:
        raise AssertionError("no write is asked for")


@contextlib.asynccontextmanager
async def driving(driver: Driver) -> AsyncIterator["asyncio.Task[Stop]"]:
    """The driver runs for as long as the block lasts."""
    task = asyncio.create_task(driver.run())
    try:
        yield task
    finally:
        driver.request_stop()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(task, return_exceptions=True)


def driver_of(machine: Any, address: BrokerAddress, performer: Any = None, patience_s: float | None = None) -> Driver:
    name = client_id("test", "t", secrets.token_hex(4))
    return Driver(machine, performer or NoJobs(), address, name, silent, patience_s)


def new_topics() -> Topics:
    return Topics(f"t-{secrets.token_hex(6)}")


async def next_of(watch: Connection, wanted: Callable[[str, dict[str, Any]], bool]) -> dict[str, Any]:
    """The first JSON object among the arriving messages that is wanted."""
    async with asyncio.timeout(PATIENCE_S):
        async for topic, payload, *_ in watch.messages():
            content = from_json(payload) or {}
            if wanted(topic, content):
                return content
    raise AssertionError("unreachable")


def device_driver(address: BrokerAddress, topics: Topics, id: str = "dev-1") -> tuple[DeviceMachine, Driver]:
    """A real device with a shard of its own."""
    shard = Shard(
        id, np.zeros((4, 3), np.float32), np.zeros(4, np.int64), np.zeros((0, 3), np.float32), np.zeros(0, np.int64)
    )
    machine = DeviceMachine(id, secrets.token_hex(4), topics, {"samples": 4})
    return machine, Driver(machine, DevicePerformer(id, shard), address, client_id("device", id, machine.boot), silent)
