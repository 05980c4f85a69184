"""Plain MQTT clients for tests of brokers."""

import asyncio
import itertools
import os

import aiomqtt

from broker.engines.engine import BrokerProcess

NUMBERS = itertools.count()

ENGINES = ["mosquitto", "embedded"]


def client(process: BrokerProcess, name: str, **options: object) -> aiomqtt.Client:
    options.setdefault("protocol", aiomqtt.ProtocolVersion.V5)
    return aiomqtt.Client(process.host, process.port, identifier=f"{name}-{os.getpid()}-{next(NUMBERS)}", **options)  # type: ignore[arg-type]


async def receive(source: aiomqtt.Client, count: int) -> list[aiomqtt.Message]:
    found: list[aiomqtt.Message] = []
    async with asyncio.timeout(10):
        async for message in source.messages:
            found.append(message)
            if len(found) == count:
                break
    return found


async def round_trip(process: BrokerProcess, **options: object) -> None:
    async with client(process, "trip", **options) as one:
        await one.subscribe("trip/#", qos=1)
        await one.publish("trip/a", b"x", qos=1)
        assert [message.payload for message in await receive(one, 1)] == [b"x"]
