"""The driver without a broker: which queue an effect goes to, and when its alarm rings."""

import asyncio
from typing import Any

from driving import NoJobs, Recorder, new_topics, silent

from broker.address import parse_broker
from broker.driver import Driver
from mpsl.machines.effects import Publish, Subscribe


def driver(react: Any = lambda event: []) -> Driver:
    return Driver(Recorder(new_topics(), react), NoJobs(), parse_broker("mqtt://127.0.0.1:1"), "t", silent)


def test_json_has_a_queue_of_its_own_so_that_signs_of_life_do_not_wait_behind_payload() -> None:
    async def scenario() -> None:
        found = driver()
        for effect in (Publish("payload", b"x" * 9), Publish("status", b"{}", 1), Subscribe(("f",))):
            found.send(effect)
        assert list(found._json._waiting.values()) == [Publish("status", b"{}", 1)]
        assert list(found._binary._entries) == [Publish("payload", b"x" * 9), Subscribe(("f",))]

    asyncio.run(scenario())


def test_the_alarm_is_set_for_the_earliest_time_that_was_asked_for() -> None:
    async def scenario() -> None:
        found = driver()
        now = found.now()
        for seconds in (50.0, 20.0, 30.0):
            found.wake_at(now + seconds)
        assert found._alarm is not None
        assert found._alarm.when() == now + 20.0
        found._alarm.cancel()

    asyncio.run(scenario())
