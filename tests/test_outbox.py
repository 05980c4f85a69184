"""JSON goes out without waiting for the answer to the publish before, and what waits is never out of date."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from driving import PATIENCE_S, NoJobs, Recorder, new_topics, silent
from orchestrator_rig import rig
from participant_rig import device

from broker.address import parse_broker
from broker.driver import MAX_UNANSWERED, Driver
from broker.outbox import JsonOutbox
from broker.refusals import PublishRefused
from mpsl.errors import BrokerError
from mpsl.machines.effects import Publish
from mpsl.machines.events import Connected, Subscribed, TimerFired
from mpsl.publish import Publish as Published


def tele(number: int, subject: str | None = "") -> Publish:
    return Publish("tele", b"%d" % number, 1, subject=subject)


def queued(outbox: JsonOutbox) -> list[bytes]:
    return [bytes(each.payload) for each in outbox._waiting.values()]


def test_a_newer_publish_takes_the_place_of_the_one_that_waits_on_its_subject() -> None:
    async def scenario() -> None:
        outbox = JsonOutbox()
        for publish in (tele(1, "run-a"), tele(2, "run-b"), Publish("info", b"3", 1, True, subject=""), tele(4, None)):
            outbox.put(publish)
        outbox.put(tele(5, "run-a"))
        outbox.put(tele(6, None))
        assert queued(outbox) == [b"5", b"2", b"3", b"4", b"6"]
        assert bytes((await outbox.next()).payload) == b"5"
        outbox.put(tele(7, "run-a"))
        assert queued(outbox) == [b"2", b"3", b"4", b"6", b"7"], "what has left cannot be replaced"

    asyncio.run(scenario())


def test_it_is_empty_once_everything_is_answered() -> None:
    async def scenario() -> None:
        outbox = JsonOutbox()
        outbox.put(tele(1))
        outbox.put(tele(2, None))
        for _ in range(2):
            await outbox.next()
        for _ in range(2):
            assert not outbox._empty.is_set()
            outbox.answered()
        await asyncio.wait_for(outbox.empty(), PATIENCE_S)
        outbox.put(tele(3))
        outbox.clear()
        await asyncio.wait_for(outbox.empty(), PATIENCE_S)

    asyncio.run(scenario())


class SilentBroker:
    """A connection that notes publishes and answers each only when it is told to."""

    max_packet = None

    def __init__(self) -> None:
        self.published: list[bytes] = []
        self.answers: list[asyncio.Future[None]] = []

    async def publish(self, publish: Published) -> None:
        self.published.append(bytes(publish.payload))
        self.answers.append(asyncio.get_running_loop().create_future())
        await self.answers[-1]


@contextlib.asynccontextmanager
async def telling() -> AsyncIterator[tuple[Driver, SilentBroker]]:
    """A driver that sends its JSON to a broker that does not answer by itself."""
    driver = Driver(Recorder(new_topics()), NoJobs(), parse_broker("mqtt://127.0.0.1:1"), "t", silent)
    broker: Any = SilentBroker()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(driver._sending_json(broker, group))
        yield driver, broker
        for task in (sending, *driver._telling):
            task.cancel()


async def settle() -> None:
    """Every task has gone as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_a_sign_of_life_does_not_wait_for_the_answer_to_the_one_before() -> None:
    async def scenario() -> None:
        async with telling() as (driver, broker):
            for number in range(5):
                driver.send(tele(number))
                await settle()
            assert broker.published == [b"0", b"1", b"2", b"3", b"4"]

    asyncio.run(scenario())


def test_what_is_unanswered_is_bounded_and_the_newest_goes_next() -> None:
    async def scenario() -> None:
        async with telling() as (driver, broker):
            for number in range(MAX_UNANSWERED + 9):
                driver.send(tele(number))
                await settle()
            assert len(broker.published) == MAX_UNANSWERED
            broker.answers[3].set_result(None)
            await settle()
            assert broker.published[MAX_UNANSWERED:] == [b"%d" % (MAX_UNANSWERED + 8)]

    asyncio.run(scenario())


def test_a_refusal_is_no_end_and_frees_its_place() -> None:
    async def scenario() -> None:
        async with telling() as (driver, broker):
            for number in range(MAX_UNANSWERED + 1):
                driver.send(tele(number, None))
            await settle()
            broker.answers[0].set_exception(PublishRefused("tele", 0x87, "not authorised"))
            await settle()
            assert len(broker.published) == MAX_UNANSWERED + 1

    asyncio.run(scenario())


def test_a_lost_connection_ends_all_who_wait_for_an_answer() -> None:
    async def scenario() -> None:
        async with telling() as (driver, broker):
            driver.send(tele(1))
            driver.send(tele(2, None))
            await settle()
            broker.answers[0].set_exception(BrokerError("the connection was lost"))
            await settle()

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(scenario())
    assert [str(error) for error in caught.value.exceptions] == ["the connection was lost"]


def test_what_a_device_says_of_itself_is_replaced_but_never_its_last_word_on_a_run() -> None:
    found = device()
    found.effects.clear()
    found.handle(TimerFired("telemetry"))
    found.session.finish(0, "done")
    found.machine._effects = []
    found.machine._remove_ended()
    found.effects += found.machine._effects
    found.handle(TimerFired("telemetry"))
    said = [(e.topic.rsplit("/", 1)[1], e.subject) for e in found.effects if isinstance(e, Publish) and e.qos]
    run = found.voices["orch"]._run
    assert said == [("tele", run), ("tele", None), ("info", ""), ("tele", "")]


def test_what_an_orchestrator_says_is_replaced_but_never_the_clearing_of_a_topic() -> None:
    found = rig()
    found.handle(Connected())
    found.handle(Subscribed())
    context = found.machine.context
    context.publish("plan", None, retain=True)
    context.publish("metrics", {"round": 1})
    context.command("dev", "dev-1", {"do": "profile"})
    said = [(e.topic.rsplit("/", 1)[1], e.subject) for e in found.machine._effects if isinstance(e, Publish)]
    assert said == [("state", ""), ("plan", None), ("metrics", None), ("cmd", "profile")]
