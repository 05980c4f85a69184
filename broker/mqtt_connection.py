"""The interface of a connection to the broker, and its real implementation.

An emulated slow link (`broker.slow_connection`) has the same interface. It must never know what a message means.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from broker.mqtt_client import MqttClient
from broker.publish_packet import Arrived
from broker.refusals import Refused
from broker.user_properties import UserProperties
from mpsl.publish import Publish

FRAME_BYTES = 16
"""An upper bound of the bytes of a publish beside topic, properties and payload."""


class Connection(Protocol):
    """An open connection. Every method raises BrokerError once it is lost."""

    @property
    def max_packet(self) -> int | None:
        """The broker's Maximum Packet Size in bytes; None if it has none."""

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way to the broker reads what is sent."""

    async def publish(self, publish: Publish) -> None:
        """Send one publish. Returns once the broker (QoS 1) or the socket (QoS 0) has it.

        Raises Refused if it is larger than the broker allows, PublishRefused if the broker refuses it (QoS 1).
        """

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """Send several at QoS 0, in order and in one go. Raises as `publish` does, before the first is sent."""

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """Subscribe at QoS 1 and wait for the grant. Raises Refused if a filter is refused."""

    async def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """Unsubscribe from filters."""

    def abort(self) -> None:
        """Close at once and without a goodbye, as a broken network would."""

    def messages(self) -> AsyncIterator[Arrived]:
        """Yield the received publishes. Raises BrokerError when the connection is lost."""


class MqttConnection:
    """The connection over a real client."""

    def __init__(self, client: MqttClient) -> None:
        self._client = client

    @property
    def max_packet(self) -> int | None:
        """See Connection."""
        return self._client.max_packet

    @property
    def is_private(self) -> bool:
        """See Connection."""
        return self._client.is_private

    async def publish(self, publish: Publish) -> None:
        """See Connection."""
        if publish.qos == 0:
            await self.publish_together((publish,))
        else:
            self._check_size(publish)
            await self._client.publish(publish)

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """See Connection."""
        if self.max_packet is not None:
            for publish in publishes:
                self._check_size(publish)
        await self._client.publish_together(publishes)

    def _check_size(self, publish: Publish) -> None:
        """Raise Refused for too large a publish, which would end the connection; paho would resend it for ever."""
        if self.max_packet is not None and (size := wire_bytes(publish, self._client.is_v5)) > self.max_packet:
            raise Refused(
                f"{publish.topic}: a publish of {size:,} bytes, but the broker accepts at most {self.max_packet:,} "
                "(its Maximum Packet Size): reduce chunk_bytes, or raise the limit (mosquitto: max_packet_size)"
            )

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """See Connection."""
        await self._client.subscribe(filters)

    async def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """See Connection."""
        await self._client.unsubscribe(filters)

    def abort(self) -> None:
        """See Connection."""
        self._client.abort()

    async def messages(self) -> AsyncIterator[Arrived]:
        """See Connection."""
        while True:
            yield await self._client.arrived()


def wire_bytes(publish: Publish, is_v5: bool) -> int:
    """Return an upper bound of the bytes of a publish on the link."""
    properties = UserProperties(publish.properties).packed if is_v5 else b"\0"
    return len(publish.payload) + len(publish.topic.encode()) + len(properties) + FRAME_BYTES
