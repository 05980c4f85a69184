"""One connection to the broker: the only place that touches the MQTT client library."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aiomqtt
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.address import BrokerAddress
from broker.mqtt_client import Arrived, Client, Unacknowledged
from broker.user_properties import UserProperties
from mpsl.errors import BrokerError
from mpsl.machines.effects import Publish

CONNECT_S = 8.0
"""How long one attempt to connect may take, up to the broker's answer."""
ANSWER_S = 60.0
"""How long the broker may take to acknowledge a publish or a subscription."""
KEEPALIVE_S = 20
AT_ONCE = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
"""A small publish behind another would else wait up to 40 ms for the broker's system to acknowledge that one."""
FRAME_BYTES = 16
"""Bytes that MQTT frames a publish with, besides topic, properties and payload: an upper bound."""

_FINAL = {1, 4, 5, 132, 134, 135, 138}
"""CONNACK codes that no waiting mends: wrong version, wrong credentials, not authorised, banned."""


class Refused(BrokerError):
    """The broker refuses us for good."""


class Connection:
    """An open connection; publishes and subscriptions return once the broker (QoS 1) or the socket (QoS 0) has them."""

    def __init__(self, client: Client, version: str) -> None:
        self._client = client
        self._version = version

    @property
    def max_packet(self) -> int | None:
        """The broker's Maximum Packet Size in bytes; None where it names none."""
        return self._client.max_packet

    async def publish(self, publish: Publish) -> None:
        """Send one; raises BrokerError when the connection is gone, Refused when it is larger than the broker takes."""
        if publish.qos == 0:
            await self.publish_together((publish,))
            return
        packed = self._checked(publish).properties
        payload = bytes(publish.payload)
        try:
            await self._client.publish(
                publish.topic, payload, publish.qos, publish.retain, cast("Properties | None", packed), timeout=ANSWER_S
            )
        except aiomqtt.MqttError as error:
            raise BrokerError(str(error)) from None

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """Send several at QoS 0, in order, at the price of one; raises as `publish` does, before the first is sent."""
        unacknowledged = [self._checked(publish) for publish in publishes]
        try:
            await self._client.publish_at_once(unacknowledged, timeout=ANSWER_S)
        except aiomqtt.MqttError as error:
            raise BrokerError(str(error)) from None

    def _checked(self, publish: Publish) -> Unacknowledged:
        """What goes out of it. One that is too large ends the connection, and the client library sends it for ever."""
        packed = self._properties(publish)
        if self.max_packet is not None and (size := _wire_bytes(publish, packed)) > self.max_packet:
            raise Refused(
                f"{publish.topic}: a publish of {size:,} bytes, and the broker takes at most {self.max_packet:,} "
                "(its Maximum Packet Size): make chunk_bytes smaller, or raise its limit (mosquitto: max_packet_size)"
            )
        return Unacknowledged(publish.topic, publish.payload, publish.retain, packed if publish.properties else None)

    def _properties(self, publish: Publish) -> UserProperties:
        return UserProperties(publish.properties if self._version == "5" else ())

    def wire_bytes(self, publish: Publish) -> int:
        """What a publish weighs on the link."""
        return _wire_bytes(publish, self._properties(publish))

    async def subscribe(self, filters: tuple[str, ...]) -> None:
        """Subscribe at QoS 1 and wait for the grant; raises BrokerError when one is refused."""
        wanted: Any = [(f, SubscribeOptions(qos=1) if self._version == "5" else 1) for f in filters]
        try:
            granted = await self._client.subscribe(wanted, timeout=ANSWER_S)
        except aiomqtt.MqttError as error:
            raise BrokerError(str(error)) from None
        for name, code in zip(filters, granted, strict=False):
            value = code if isinstance(code, int) else int(getattr(code, "value", 0))
            if value >= 0x80:
                raise Refused(
                    f"the broker refuses the subscription {name} (code {value}): see its access rules for this user"
                )

    async def unsubscribe(self, filters: tuple[str, ...]) -> None:
        """Leave filters."""
        try:
            await self._client.unsubscribe(list(filters), timeout=ANSWER_S)
        except aiomqtt.MqttError as error:
            raise BrokerError(str(error)) from None

    async def messages(self) -> AsyncIterator[Arrived]:
        """Topic, payload and retain flag of whatever arrives; raises BrokerError when the connection is gone."""
        try:
            while True:
                yield await self._client.arrived()
        except aiomqtt.MqttError as error:
            raise BrokerError(str(error)) from None


def _wire_bytes(publish: Publish, packed: UserProperties) -> int:
    return len(publish.payload) + len(publish.topic.encode()) + len(packed.packed) + FRAME_BYTES


@asynccontextmanager
async def connect(
    address: BrokerAddress, client_id: str, will: Publish | None = None, patience_s: float = CONNECT_S
) -> AsyncIterator[Connection]:
    """Connect with a clean start, within `patience_s`.

    Raises BrokerError naming host, port and cause, Refused where trying again is no use.
    """
    five = address.version == "5"
    client = Client(
        address.host,
        address.port,
        username=address.user,
        password=address.password,
        identifier=client_id,
        protocol=aiomqtt.ProtocolVersion.V5 if five else aiomqtt.ProtocolVersion.V311,
        will=aiomqtt.Will(will.topic, bytes(will.payload), will.qos, will.retain) if will else None,
        clean_session=None if five else True,
        clean_start=True if five else 3,
        timeout=patience_s,
        keepalive=KEEPALIVE_S,
        tls_context=address.context(),
        socket_options=[AT_ONCE],
    )
    client._client.connect_timeout = patience_s  # of the socket: a thread waits there, and nothing can cancel it
    try:
        async with asyncio.timeout(patience_s):
            await client.__aenter__()
    except MqttConnectError as error:
        code = error.rc if isinstance(error.rc, int) else getattr(error.rc, "value", 0)
        kind = Refused if code in _FINAL else BrokerError
        raise kind(f"broker {address.shown} refuses the connection: {error}") from None
    except (aiomqtt.MqttError, TimeoutError, OSError, ValueError) as error:
        raise BrokerError(f"no connection to broker {address.shown}: {error or 'no answer'}") from None
    try:
        connection = Connection(client, address.version)
        if address.link is None:
            yield connection
        else:
            from broker.slow_connection import slowed

            async with slowed(connection, address.link) as slow:
                yield slow
    finally:
        with contextlib.suppress(aiomqtt.MqttError):
            await client.__aexit__(None, None, None)
