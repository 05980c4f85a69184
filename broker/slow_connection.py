"""A connection behind an emulated slow link: what is published and what is delivered arrives when it would there.

Nothing is dropped, in either direction, at QoS 0 or 1, and nothing is reordered but by the rule of the real connection:
JSON (QoS 1) overtakes binary that is not begun. The broker's answers wait behind what it delivers, as in one stream of
TCP. The waiting is done here, in the process: the real connection behind it stays fast, and its pings keep it alive.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from broker.mqtt_connection import FRAME_BYTES, Connection, wire_bytes
from broker.publish_packet import Arrived
from broker.slow_link import LinkSpeed, OneWay
from mpsl.errors import BrokerError
from mpsl.publish import Publish

ANSWER_BYTES = 4
"""Of a PUBACK without a reason; what a SUBACK has more does not count."""


@dataclass(frozen=True)
class _InTransit:
    """A publish that reaches the broker at `at`; `answered` is set if someone waits for the broker's answer."""

    at: float
    publish: Publish
    answered: "asyncio.Future[None] | None"


class SlowConnection:
    """The same interface as the connection `inner`, slowed down to `speed` in each direction."""

    def __init__(self, inner: Connection, speed: LinkSpeed, is_v5: bool) -> None:
        self._inner = inner
        self._speed = speed
        self._is_v5 = is_v5
        self._up, self._down = OneWay(speed), OneWay(speed)
        self._upload: asyncio.Queue[_InTransit] = asyncio.Queue()
        self._download: asyncio.Queue[tuple[float, Arrived | BrokerError]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def max_packet(self) -> int | None:
        """The broker's Maximum Packet Size."""
        return self._inner.max_packet

    @property
    def queued_s(self) -> float:
        """Seconds until what the broker has sent so far would be here: an answer given now waits that long."""
        return self._down.queued_s(self._loop.time())

    async def publish(self, publish: Publish) -> None:
        """Returns once the bytes have left (QoS 0), or the broker's answer would be here (QoS 1).

        At QoS 0, what goes wrong after that is raised by `messages`.
        """
        left_at = self._up.send(wire_bytes(publish, self._is_v5), self._loop.time())
        answered = self._loop.create_future() if publish.qos else None
        self._upload.put_nowait(_InTransit(self._up.arrival(left_at), publish, answered))
        if answered is None:
            await self._until(left_at)
        else:
            await answered
            await self._answer_arrives()

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """One after the other: here it is the bytes that take their time, and JSON may go between two."""
        for publish in publishes:
            await self.publish(publish)

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """As `inner`, a way there and a way back later."""
        await asyncio.sleep(self._speed.latency_s)
        await self._inner.subscribe(filters)
        await self._answer_arrives()

    async def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """As `inner`, a way there and a way back later."""
        await asyncio.sleep(self._speed.latency_s)
        await self._inner.unsubscribe(filters)
        await self._answer_arrives()

    async def messages(self) -> AsyncIterator[Arrived]:
        """What `inner` delivers, each when its last byte would be here."""
        while True:
            at, delivery = await self._download.get()
            await self._until(at)
            if isinstance(delivery, BrokerError):
                raise delivery
            yield delivery

    async def carry_up(self) -> None:
        """Hand publishes to the broker at their times, in order; no answer of the broker holds up the next one."""
        answers: set[asyncio.Task[None]] = set()
        try:
            while True:
                transit = await self._upload.get()
                await self._until(transit.at)
                answer = asyncio.create_task(self._hand_over(transit), name="slow-publish")
                answers.add(answer)
                answer.add_done_callback(answers.discard)
        finally:
            for answer in answers:
                answer.cancel()

    async def carry_down(self) -> None:
        """Take deliveries off the broker as they come, and say when each is here."""
        try:
            async for delivery in self._inner.messages():
                left_at = self._down.send(delivery.nbytes + FRAME_BYTES, self._loop.time())
                self._download.put_nowait((self._down.arrival(left_at), delivery))
        except BrokerError as error:
            self._download.put_nowait((self._loop.time(), error))

    async def flushed(self) -> None:
        """Wait until everything that was handed over is with the broker: a goodbye must not overtake it."""
        await self._upload.join()

    async def _hand_over(self, transit: _InTransit) -> None:
        answered = transit.answered
        try:
            await self._inner.publish(transit.publish)
            if answered is not None and not answered.done():
                answered.set_result(None)
        except BrokerError as error:
            if answered is not None and not answered.done():
                answered.set_exception(error)
            else:
                # Whoever handed it over is gone: it is heard of like a lost connection.
                self._download.put_nowait((self._loop.time(), error))
        finally:
            self._upload.task_done()

    async def _answer_arrives(self) -> None:
        """An answer of the broker stands in the same stream as what it delivers."""
        await self._until(self._down.arrival(self._down.send(ANSWER_BYTES, self._loop.time())))

    async def _until(self, at: float) -> None:
        if (seconds := at - self._loop.time()) > 0:
            await asyncio.sleep(seconds)


@asynccontextmanager
async def slowed(inner: Connection, speed: LinkSpeed, is_v5: bool) -> AsyncIterator[SlowConnection]:
    """`inner` behind a link of that speed; what was handed over is with the broker when the block ends."""
    slow = SlowConnection(inner, speed, is_v5)
    carriers = [
        asyncio.create_task(slow.carry_up(), name="slow-upload"),
        asyncio.create_task(slow.carry_down(), name="slow-download"),
    ]
    try:
        yield slow
        await slow.flushed()
    finally:
        for carrier in carriers:
            carrier.cancel()
        await asyncio.gather(*carriers, return_exceptions=True)
