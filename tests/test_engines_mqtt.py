"""What we ask of MQTT, of every broker that we start."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiomqtt
import pytest
from brokers import serving
from mqtt_clients import ENGINES, client, receive, round_trip
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker.engines.engine import BrokerProcess


def scenario(test: Callable[[BrokerProcess, str], Awaitable[None]]) -> Callable[[BrokerProcess], None]:
    """Run an async test on each broker, below a topic of its own."""

    def run(each_broker: BrokerProcess) -> None:
        asyncio.run(test(each_broker, f"test/{test.__name__}"))

    run.__doc__ = test.__doc__
    return run


@scenario
async def test_retained_reaches_who_subscribes_later(process: BrokerProcess, root: str) -> None:
    async with client(process, "writer") as writer:
        for name in ("a", "b"):
            await writer.publish(f"{root}/{name}/status", b"old", qos=1, retain=True)
            await writer.publish(f"{root}/{name}/status", name, qos=1, retain=True)
        await writer.publish(f"{root}/b/status", b"", qos=1, retain=True)
    async with client(process, "reader") as reader:
        await reader.subscribe(f"{root}/+/status", qos=1)
        (message,) = await receive(reader, 1)
        assert (message.payload, str(message.topic)) == (b"a", f"{root}/a/status")
        await reader.publish(f"{root}/c/status", b"last", qos=1)
        assert [message.payload for message in await receive(reader, 1)] == [b"last"]


@scenario
async def test_a_will_is_published_and_retained_when_the_connection_breaks(process: BrokerProcess, root: str) -> None:
    will = aiomqtt.Will(f"{root}/status", b"lost", qos=1, retain=True)
    async with client(process, "witness") as witness:
        await witness.subscribe(f"{root}/status", qos=1)
        mortal = client(process, "mortal", will=will)
        await mortal.__aenter__()
        mortal._client.socket().shutdown(socket.SHUT_RDWR)  # what the broker sees of a kill -9
        assert [message.payload for message in await receive(witness, 1)] == [b"lost"]
        with pytest.raises(aiomqtt.MqttError):
            await receive(mortal, 1)
        await mortal.__aexit__(None, None, None)
    async with client(process, "late") as late:
        await late.subscribe(f"{root}/status", qos=1)
        assert [message.payload for message in await receive(late, 1)] == [b"lost"]


@scenario
async def test_no_will_after_a_clean_goodbye(process: BrokerProcess, root: str) -> None:
    async with client(process, "witness") as witness:
        await witness.subscribe(f"{root}/#", qos=1)
        async with client(process, "polite", will=aiomqtt.Will(f"{root}/status", b"lost", qos=1)) as polite:
            await polite.publish(f"{root}/status", b"offline", qos=1)
        async with client(process, "next") as after:
            await after.publish(f"{root}/status", b"after", qos=1)
        assert [message.payload for message in await receive(witness, 2)] == [b"offline", b"after"]


@scenario
async def test_big_chunks_arrive_in_order_at_both_qualities(process: BrokerProcess, root: str) -> None:
    sizes = [0, 1, 1 << 10, 512 << 10, 1 << 20, 4 << 20]
    for qos in (0, 1):
        async with client(process, "reader") as reader, client(process, "writer") as writer:
            await reader.subscribe(f"{root}/{qos}/+/fwd/#", qos=qos)
            for number, size in enumerate(sizes):
                await writer.publish(f"{root}/{qos}/1_0/fwd/dev-{number}", bytes([number]) * size, qos=qos)
            messages = await receive(reader, len(sizes))
        assert [str(message.topic)[-1] for message in messages] == [str(number) for number in range(len(sizes))]
        assert all(
            message.payload == bytes([number]) * size
            for number, (size, message) in enumerate(zip(sizes, messages, strict=True))
        )


@scenario
async def test_what_fits_the_windows_waits_for_a_stalled_reader(process: BrokerProcess, root: str) -> None:
    """A seat and the orchestrator have many senders with a window of 8 MiB each, a device has few."""
    chunk = bytes(512 << 10)
    for topic, megabytes in (("seat/run/1_0/fwd", 96), ("x/run/orch/weights", 96), ("x/run/dev-1/bwd", 32)):
        filters = f"mpsl/v1/stalled/{topic}".rpartition("/")[0] + "/#"
        async with client(process, "reader") as reader, client(process, "writer") as writer:
            await reader.subscribe(filters, qos=1)
            sock, loop = reader._client.socket(), asyncio.get_running_loop()
            loop.remove_reader(sock)
            for _ in range(2 * megabytes):
                await writer.publish(f"mpsl/v1/stalled/{topic}/src", chunk, qos=1)
            loop.add_reader(sock, reader._client.loop_read)
            assert len(await receive(reader, 2 * megabytes)) == 2 * megabytes


@scenario
async def test_user_properties_arrive(process: BrokerProcess, root: str) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.UserProperty = [("kind", "tensor"), ("shape", "64x3x8x8")]
    async with client(process, "both") as both:
        await both.subscribe(f"{root}/#", qos=0)
        await both.publish(f"{root}/a", b"x", qos=0, properties=properties)
        (message,) = await receive(both, 1)
    assert message.properties is not None
    assert message.properties.UserProperty == [("kind", "tensor"), ("shape", "64x3x8x8")]


@scenario
async def test_three_hundred_clients_are_connected_at_once(process: BrokerProcess, root: str) -> None:
    clients = [client(process, f"many-{number}") for number in range(300)]
    try:
        for start in range(0, 300, 50):
            await asyncio.gather(*(one.__aenter__() for one in clients[start : start + 50]))
        await clients[0].subscribe(f"{root}/+", qos=1)
        await asyncio.gather(*(one.publish(f"{root}/{number}", b"", qos=1) for number, one in enumerate(clients)))
        assert len({str(message.topic) for message in await receive(clients[0], 300)}) == 300
    finally:
        await asyncio.gather(*(one.__aexit__(None, None, None) for one in clients), return_exceptions=True)


@pytest.mark.parametrize("name", ENGINES)
def test_mqtt_3_1_1_is_served(name: str) -> None:
    with serving(name, protocol="3.1.1") as process:
        asyncio.run(round_trip(process, protocol=aiomqtt.ProtocolVersion.V311))
