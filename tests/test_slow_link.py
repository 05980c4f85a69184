"""The emulated link: its arithmetic in virtual time, and a connection that waits as it says, over a real broker."""

import asyncio
import itertools
import secrets
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.address import BrokerAddress, parse_broker
from broker.connection import FRAME_BYTES, connect
from broker.engines.engine import BrokerProcess
from broker.mqtt_connection import wire_bytes
from broker.slow_link import LinkSpeed, OneWay, parse_link
from broker.user_properties import UserProperties
from mpsl.errors import UsageError
from mpsl.link.channel import Channel, Limits, Peer
from mpsl.messages import Slice, Tensor
from mpsl.publish import Publish
from mpsl.topics import BinaryTopic, Topics

MBIT8 = LinkSpeed(1e6, 0.02)


@pytest.mark.parametrize(
    ("text", "speed"),
    [
        ("8mbit/20ms", LinkSpeed(1e6, 0.02)),
        ("500kbit/100ms", LinkSpeed(62_500, 0.1)),
        ("1gbit/0ms", LinkSpeed(125e6, 0.0)),
        (" 1.5Mbit/2.5MS ", LinkSpeed(187_500, 0.0025)),
    ],
)
def test_speeds_are_read(text: str, speed: LinkSpeed) -> None:
    assert parse_link(text) == speed


@pytest.mark.parametrize(
    "text", ["", "8", "8mbit", "8mbit/", "20ms", "8MB/20ms", "8mbit/20", "0mbit/20ms", "-1mbit/1ms", "1mbit/61000ms"]
)
def test_what_is_no_speed_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(UsageError, match="--link"):
        parse_link(text)


def test_a_line_sends_one_after_the_other_and_saves_nothing_up_while_idle() -> None:
    line = OneWay(MBIT8)
    assert line.send(1000, 10.0) == pytest.approx(10.001)
    assert line.send(2000, 10.0) == pytest.approx(10.003)
    assert line.send(1000, 60.0) == pytest.approx(60.001)
    assert line.arrival(60.001) == pytest.approx(60.021)


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10**6)), max_size=30))
def test_no_stretch_of_time_carries_more_than_the_rate(handed: list[tuple[float, int]]) -> None:
    line, now, left = OneWay(MBIT8), 0.0, []
    for pause, nbytes in handed:
        now += pause
        left.append((now, line.send(nbytes, now), nbytes))
    for (_, at, nbytes), (_, before, _) in zip(left[1:], left, strict=False):
        assert at - before >= nbytes / MBIT8.bytes_per_s - 1e-9  # the rate, and the order
    for handed_at, at, nbytes in left:
        assert at >= handed_at + nbytes / MBIT8.bytes_per_s - 1e-9
    busy = sum(nbytes for *_, nbytes in left) / MBIT8.bytes_per_s
    idle = sum(max(0.0, handed_at - before) for (_, before, _), (handed_at, *_) in itertools.pairwise(left))
    if left:  # and not a moment longer than that
        assert left[-1][1] == pytest.approx(left[0][0] + busy + idle)


def weight(publish: Publish, version: str = "5") -> int:
    return wire_bytes(publish, version == "5")


def test_a_publish_weighs_its_payload_its_topic_its_properties_and_its_frame() -> None:
    pairs = (("kind", "activation"), ("größe", "½"))
    bare, labelled = Publish("a/ü", b"12345", 0), Publish("a/ü", b"12345", 0, False, pairs)
    packed = 1 + 2 * 5 + sum(len(text.encode()) for pair in pairs for text in pair)
    assert weight(bare) == 5 + 4 + 1 + FRAME_BYTES
    assert weight(labelled) == 5 + 4 + packed + FRAME_BYTES
    assert weight(labelled, "3.1.1") == weight(bare)
    assert len(UserProperties(pairs).packed) == packed


def slow(broker: BrokerProcess, text: str) -> BrokerAddress:
    address = parse_broker(broker.url)
    return BrokerAddress(address.host, address.port, link=parse_link(text))


def test_deliveries_are_late_whole_and_in_order_at_both_qualities(mosquitto: BrokerProcess) -> None:
    topic = f"slow/{secrets.token_hex(6)}"
    sizes = [20_000, 0, 30_000, 1, 50_000]

    async def exchange() -> tuple[list[tuple[int, int]], list[float], list[float]]:
        got: list[tuple[int, int]] = []
        arrived: list[float] = []
        left: list[float] = []
        address = slow(mosquitto, "8mbit/50ms")
        async with (
            connect(address, f"a-{topic}") as sender,
            connect(parse_broker(mosquitto.url), f"b-{topic}") as reader,
        ):
            await reader.subscribe((topic,))
            began = time.monotonic()
            sending = asyncio.create_task(_send(sender, topic, sizes, left, began))
            async for _, payload, *_ in reader.messages():
                got.append((payload[0], len(payload) - 1))
                arrived.append(time.monotonic() - began)
                if len(got) == len(sizes):
                    break
            await sending
        return got, arrived, left

    got, arrived, left = asyncio.run(asyncio.wait_for(exchange(), 30))
    assert got == list(enumerate(sizes))
    due = list(itertools.accumulate(weight(Publish(topic, bytes(size + 1), 0)) / 1e6 for size in sizes))
    # Never early, whatever the load of this machine: that is all a test may say of time.
    assert all(at >= expected + 0.05 - 1e-3 for at, expected in zip(arrived, due, strict=True))
    assert all(at >= expected - 1e-3 for at, expected in zip(left, due, strict=True))
    # At QoS 1 the sender also waits for the answer to come back.
    assert all(at >= expected + 0.1 - 1e-3 for at, expected in list(zip(left, due, strict=True))[1::2])


async def _send(sender: object, topic: str, sizes: list[int], left: list[float], began: float) -> None:
    for number, size in enumerate(sizes):
        await sender.publish(Publish(topic, bytes([number]) + bytes(size), number % 2))  # type: ignore
        left.append(time.monotonic() - began)


def test_a_slow_reader_gets_what_a_fast_sender_sends(mosquitto: BrokerProcess) -> None:
    topic = f"slow/{secrets.token_hex(6)}"

    async def exchange() -> tuple[list[int], float]:
        async with (
            connect(slow(mosquitto, "4mbit/30ms"), f"c-{topic}") as reader,
            connect(parse_broker(mosquitto.url), f"d-{topic}") as sender,
        ):
            await reader.subscribe((topic,))
            began = time.monotonic()
            for number in range(20):
                await sender.publish(Publish(topic, bytes([number]) * 5000, number % 2))
            got = []
            async for _, payload, *_ in reader.messages():
                got.append(payload[0])
                if len(got) == 20:
                    break
            return got, time.monotonic() - began

    got, seconds = asyncio.run(asyncio.wait_for(exchange(), 30))
    assert got == list(range(20))
    assert seconds >= 20 * weight(Publish(topic, bytes(5000), 0)) / 500_000 + 0.03 - 1e-3


def test_answers_to_json_wait_no_longer_than_the_window_behind_weights(mosquitto: BrokerProcess) -> None:
    """A device behind 4 Mbit/s loads 3 MB, six seconds, and tells of itself meanwhile; 8 MiB of window would be all."""
    topics = Topics(f"t-{secrets.token_hex(6)}")
    ends = {id: Channel(topics, "run-1", id, f"boot-{id}", 1, Limits()) for id in ("node", "device")}
    for id, other in (("node", "device"), ("device", "node")):
        ends[id].set_peers({other: Peer(f"boot-{other}", other)})
    data = memoryview(bytes(1_000_000))
    waited: list[float] = []
    complete = asyncio.Event()

    async def carry(connection: Any, id: str, messages: list[Any]) -> None:
        """Receive on the link's end `id`, answer, and send again what is due."""
        loop = asyncio.get_running_loop()
        async for topic, payload, *_ in connection.messages():
            parsed = topics.parse(topic)
            assert isinstance(parsed, BinaryTopic)
            found, outbound = ends[id].receive(parsed, payload, loop.time())
            messages += found
            for each in outbound + ends[id].due(loop.time()):
                await connection.publish(each)
            if len(messages) == 3:
                complete.set()

    async def tell(connection: Any) -> None:
        while True:
            waited.append(connection.queued_s)
            await connection.publish(Publish(topics.participant("dev", "device", "tele"), b"{}", 1))
            await asyncio.sleep(0.1)

    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        received: list[Any] = []
        async with (
            connect(slow(mosquitto, "4mbit/20ms"), f"g-{topics.net}") as device,
            connect(parse_broker(mosquitto.url), f"h-{topics.net}") as node,
        ):
            for connection, id in ((device, "device"), (node, "node")):
                await connection.subscribe((topics.binary("run-1", id, "+", "+"),))
            tasks = [asyncio.create_task(carry(device, "device", received)), asyncio.create_task(tell(device))]
            tasks.append(asyncio.create_task(carry(node, "node", [])))
            for number in range(3):
                message = Slice("global", 1, 0, 1, number, 0, Tensor("raw", "uint8", (len(data),), (data,)))
                for each in ends["node"].send("device", message, loop.time()):
                    await node.publish(each)
            done = asyncio.create_task(complete.wait())
            await asyncio.wait([done, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return len(received)

    assert asyncio.run(asyncio.wait_for(scenario(), 60)) == 3
    assert len(waited) >= 4, "it tells of itself while it loads"
    assert 0 < max(waited) <= 3.0


def test_a_goodbye_does_not_overtake_what_is_on_its_way(mosquitto: BrokerProcess) -> None:
    topic = f"slow/{secrets.token_hex(6)}"

    async def exchange() -> list[bytes]:
        async with connect(parse_broker(mosquitto.url), f"f-{topic}") as reader:
            await reader.subscribe((topic,))
            async with connect(slow(mosquitto, "8mbit/200ms"), f"e-{topic}") as sender:
                await sender.publish(Publish(topic, b"last words", 0))
            async for _, payload, *_ in reader.messages():
                return [payload]
        return []

    assert asyncio.run(asyncio.wait_for(exchange(), 30)) == [b"last words"]
