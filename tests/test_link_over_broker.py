"""A link over a real broker: parts that are larger than what a broker keeps, slow readers, cut connections."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brokers import serving, write_certificates
from cable import Cable
from driving import PATIENCE_S, NoJobs, Recorder, driver_of, driving, new_topics

from broker.address import BrokerAddress, parse_broker
from broker.engines.engine import BrokerProcess
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Outbound, Peer
from mpsl.machines.effects import Effect, Publish, SetTimer, Subscribe, Write
from mpsl.machines.events import (
    Connected,
    Event,
    Received,
    Subscribed,
    TimerFired,
)
from mpsl.nn import weights
from mpsl.topics import BinaryTopic, Topics


class LinkEnd(Recorder):
    """One end of a link as the machines use it: what arrives goes into a channel, what that gives is published."""

    def __init__(self, topics: Topics, id: str, other: str, limits: Limits, reading_s: float = 0.0) -> None:
        super().__init__(topics)
        self.id = id
        self.channel = Channel(topics, "run-1", id, f"boot-{id}", 1, limits)
        self.channel.set_peers({other: Peer(f"boot-{other}", other)})
        self.arrived: list[int] = []
        self._reading_s = reading_s

    def send(self, to: str, message: Any) -> list[Effect]:
        return self._publishes(self.channel.send(to, message, self.now))

    def handle(self, event: Event, now: float) -> list[Effect]:
        effects = super().handle(event, now)
        match event:
            case Connected():
                effects.append(Subscribe((self._topics.binary("run-1", self.id, "+", "+"),)))
            case Received(topic, payload):
                self.events.pop()
                time.sleep(self._reading_s)
                parsed = self._topics.parse(topic)
                assert isinstance(parsed, BinaryTopic)
                messages, outbound = self.channel.receive(parsed, payload, now)
                effects += [Write(parsed.source, message) for message in messages]  # type: ignore[arg-type]
                effects += self._publishes(outbound)
            case TimerFired():
                effects += self._publishes(self.channel.due(now))
        return effects + self.wake()

    def wake(self) -> list[Effect]:
        at = self.channel.next_due()
        return [] if at is None else [SetTimer("link", at)]

    def _publishes(self, outbound: list[Outbound]) -> list[Effect]:
        return [Publish(each.topic, each.payload, 0, False, each.properties) for each in outbound]


class Part(NoJobs):
    """Weights that arrive are written into `arrays`; a message that comes twice or out of order is noted."""

    def __init__(self, arrays: list[Any]) -> None:
        self.arrays = arrays
        self.offsets: list[tuple[int, int]] = []

    def write(self, source: str, message: Any, session: Any = None) -> None:
        self.offsets.append((message.index, message.offset))
        weights.write(self.arrays, message)


def transfer(
    broker: BrokerAddress, megabytes: int, reading_s: float, cuts: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> None:
    """A part of that size over a link at QoS 0 to a slow reader, in spite of cuts: it arrives once, in order, whole."""
    part = [np.arange(megabytes * 250_000 - 7, dtype=np.float32), np.arange(7, dtype=np.float32)]
    topics, limits = new_topics(), Limits(chunk_bytes)
    received = Part([np.zeros_like(array) for array in part])
    slices = list(weights.slices(part, "sum", 1, 0, 1, limits.chunk_bytes))
    subscribed = threading.Event()

    async def read(address: BrokerAddress) -> None:
        machine = LinkEnd(topics, "reader", "sender", limits, reading_s)
        async with driving(driver_of(machine, address, received)):
            await machine.until(lambda: machine.of(Subscribed))
            subscribed.set()
            await machine.until(lambda: len(received.offsets) >= len(slices))
            await machine.until(lambda: machine.channel.next_due() is None)
        assert not machine.channel.dropped

    async def send(address: BrokerAddress, cut: Callable[[], None]) -> None:
        cuts_made = 0
        machine = LinkEnd(topics, "sender", "reader", limits)
        driver = driver_of(machine, address)
        async with driving(driver):
            await machine.until(lambda: machine.of(Subscribed))
            await asyncio.to_thread(subscribed.wait, PATIENCE_S)
            machine.now = time.monotonic()
            for each in slices:
                for effect in machine.send("reader", each):
                    driver._interpreter._perform(effect)
            driver._interpreter._perform(machine.wake()[0])
            most = 0
            while not machine.channel.idle:
                most = max(most, machine.channel.in_flight_bytes)
                if cuts_made < cuts and len(received.offsets) > (1 + cuts_made) * len(slices) // (1 + cuts):
                    cut()
                    cuts_made += 1
                await machine.next_event()
            assert 0 < most <= limits.window
            assert len(machine.of(Connected)) == 1 + cuts_made == 1 + cuts

    async def both() -> None:
        cable = Cable()
        async with asyncio.timeout(10 * PATIENCE_S), cable.to(broker) as address:
            await asyncio.gather(asyncio.to_thread(asyncio.run, read(address)), send(address, cable.cut))

    asyncio.run(both())
    assert received.offsets == [(each.index, each.offset) for each in slices]
    for sent, got in zip(part, received.arrays, strict=True):
        assert np.array_equal(sent, got)


def test_a_large_part_reaches_a_slow_reader(each_broker: BrokerProcess) -> None:
    transfer(parse_broker(each_broker.url), megabytes=40, reading_s=0.004)


@pytest.mark.slow
def test_half_a_gigabyte_reaches_a_slow_reader(mosquitto: BrokerProcess) -> None:
    transfer(parse_broker(mosquitto.url), megabytes=500, reading_s=0.005)


def test_a_link_goes_on_after_the_connection_was_cut(each_broker: BrokerProcess) -> None:
    transfer(parse_broker(each_broker.url), megabytes=30, reading_s=0.001, cuts=2)


def test_a_link_goes_on_after_tls_was_cut_in_the_middle_of_joined_publishes(tmp_path: Path) -> None:
    """Chunks of 64 KiB go out many at a time; what is left of them has to be forgotten with the connection."""
    ca = write_certificates(tmp_path)
    conf = tmp_path / "mosquitto.conf"
    files = f"cafile {ca}\ncertfile {tmp_path / 'server.crt'}\nkeyfile {tmp_path / 'server.key'}\n"
    conf.write_text(f"listener 8883 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 1000\n{files}")
    with serving("mosquitto", conf=conf, host="127.0.0.1", port=0) as process:
        address = BrokerAddress("127.0.0.1", process.port, True, None, None, str(ca))
        transfer(address, megabytes=30, reading_s=0.0005, cuts=2, chunk_bytes=64 * 1024)
