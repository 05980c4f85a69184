"""A connection behind an emulated slow link: publishes and deliveries arrive as late as on a real one.

Nothing is dropped, in either direction, at QoS 0 or 1. The order is that of the real connection: JSON (QoS 1) overtakes
binary publishes that are not partly sent. The broker's answers queue behind its deliveries, as in a TCP stream. The
delays happen in this process; the real connection behind it stays fast, and its pings keep it alive.
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
"""The size of a PUBACK without a reason. The few further bytes of a SUBACK are neglected."""


@dataclass(frozen=True)
class _InTransit:
    """A publish that reaches the broker at `at`; `answered` is set if a caller waits for the broker's answer."""

    at: float
    publish: Publish
    answered: "asyncio.Future[None] | None"


class SlowConnection:
    """The connection `inner`, slowed down to `speed` in each direction."""

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
    def is_private(self) -> bool:
        """As `inner`."""
        return self._inner.is_private

    @property
    def queued_s(self) -> float:
        """Return the seconds until everything sent by the broker has arrived. An answer now takes that long."""
        return self._down.queued_s(self._loop.time())

    def abort(self) -> None:
        """As `inner`."""
        self._inner.abort()

    async def publish(self, publish: Publish) -> None:
        """Return once the bytes are sent (QoS 0), or the broker's answer has arrived (QoS 1).

        At QoS 0, `messages` raises any later error.
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
        """Send one after the other, because the bytes take the time here; JSON may go between two."""
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
        """Yield what `inner` delivers, each when its last byte has arrived."""
        while True:
            at, delivery = await self._download.get()
            await self._until(at)
            if isinstance(delivery, BrokerError):
                raise delivery
            yield delivery

    async def carry_up(self) -> None:
        """Pass publishes to the broker at their times, in order, without waiting for its answers."""
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
        """Take deliveries from the broker, and note when each has arrived."""
        try:
            async for delivery in self._inner.messages():
                left_at = self._down.send(delivery.nbytes + FRAME_BYTES, self._loop.time())
                self._download.put_nowait((self._down.arrival(left_at), delivery))
        except BrokerError as error:
            self._download.put_nowait((self._loop.time(), error))

    async def flushed(self) -> None:
        """Wait until the broker has all publishes, because a disconnect must not overtake them."""
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
                # The caller has already returned, so the error appears like a lost connection.
                self._download.put_nowait((self._loop.time(), error))
        finally:
            self._upload.task_done()

    async def _answer_arrives(self) -> None:
        """Delay an answer of the broker behind its deliveries, which share a stream."""
        await self._until(self._down.arrival(self._down.send(ANSWER_BYTES, self._loop.time())))

    async def _until(self, at: float) -> None:
        if (seconds := at - self._loop.time()) > 0:
            await asyncio.sleep(seconds)


@asynccontextmanager
async def slowed(inner: Connection, speed: LinkSpeed, is_v5: bool) -> AsyncIterator[SlowConnection]:
    """Put `inner` behind a link of this speed. When the block ends, the broker has all publishes."""
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
