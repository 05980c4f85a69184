"""One MQTT connection in the event loop, over paho's public calls alone.

Subclasses may move bytes faster (`broker.direct_client`). Only this file interprets the broker's answers, and it reads
every one: a refused publish, subscription or connection is an error with the broker's reason.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.address import BrokerAddress
from broker.dialing import TCP_NODELAY_OPTION, SocketAddress
from broker.publish_packet import Arrived
from broker.refusals import FIRST_FAILURE_CODE, PublishRefused, code_of, refused_connection, refused_subscription, words
from broker.user_properties import UserProperties
from mpsl.errors import BrokerError
from mpsl.publish import Publish

KEEPALIVE_S = 20
ANSWER_S = 60.0
"""The maximum wait for an answer while the broker sends nothing, and for a socket to accept any byte."""
MAX_ANSWER_S = 600.0
"""The maximum wait for an answer while other bytes arrive, which are before it in the broker's queue."""
GOODBYE_S = 2.0
"""The maximum time of a clean disconnect."""
TICK_S = 1.0


class MqttClient:
    """Connects once. All methods raise BrokerError once the connection is lost, with the reason."""

    max_packet: int | None = None
    """The broker's Maximum Packet Size in bytes; None if it has none."""
    taken: bool = False
    """Whether the other end, a broker or not, has accepted the connection."""
    reached: SocketAddress | None = None
    """The address of the connection, if it is known."""
    _paho_kind: type[paho.Client] = paho.Client

    def __init__(self, address: BrokerAddress, client_id: str, will: Publish | None = None) -> None:
        self.is_v5 = address.version == "5"
        self._address = address
        self.is_private = address.is_private
        self._loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._arrivals: asyncio.Queue[Arrived | None] = asyncio.Queue()
        """Received publishes; None marks the end."""
        self._received_bytes = 0
        self._lost: str | None = None
        self._leaving = False
        self._drained = asyncio.Event()
        self._ticking: asyncio.Task[None] | None = None
        self._paho = self._paho_kind(
            CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=None if self.is_v5 else True,
            protocol=paho.MQTTv5 if self.is_v5 else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self._paho.on_connect = self._on_connect
        self._paho.on_disconnect = self._on_disconnect
        self._paho.on_publish = lambda _, __, mid, reason, ___: self._answer(mid, reason)
        self._paho.on_subscribe = lambda _, __, mid, reasons, ___: self._answer(mid, reasons)
        self._paho.on_unsubscribe = lambda _, __, mid, reasons, ___: self._answer(mid, reasons)
        self._paho.on_message = self._on_message
        if address.user is not None:
            self._paho.username_pw_set(address.user, address.password)
        if will is not None:
            self._paho.will_set(will.topic, bytes(will.payload), will.qos, will.retain)
        self._register(address)

    def _register(self, address: BrokerAddress) -> None:
        """Have paho report its socket, and encrypt it."""
        self._paho.on_socket_open = lambda _, __, sock: self._soon(self._opened, sock)
        self._paho.on_socket_close = lambda _, __, sock: self._forget(sock)
        self._paho.on_socket_register_write = lambda _, __, sock: self._soon(self._wait_for_room, sock)
        self._paho.on_socket_unregister_write = lambda _, __, sock: self._has_room(sock)
        if (context := address.context()) is not None:
            self._paho.tls_set_context(context)

    # Connecting

    async def connect(self, addresses: Sequence[SocketAddress], patience_s: float) -> None:
        """Connect to one of `addresses`, with a clean start, within `patience_s`.

        Raises Refused or BrokerError with the broker's reason, OSError or TimeoutError if it gave none.
        """
        async with asyncio.timeout(patience_s):
            await self._open(addresses, patience_s)
            self._ticking = asyncio.create_task(self._tick(), name="mqtt-ticking")
            await self._connected

    async def _open(self, addresses: Sequence[SocketAddress], patience_s: float) -> None:
        # paho tries the addresses of a name one after the other, each for this long.
        self._paho.connect_timeout = max(0.5, patience_s / max(1, len(addresses)))
        self._connect_async(self._address.host)
        await self._loop.run_in_executor(None, self._paho.reconnect)
        self.taken = True

    def _connect_async(self, host: str) -> None:
        self._paho.connect_async(host, self._address.port, KEEPALIVE_S, clean_start=True if self.is_v5 else 3)

    async def disconnect(self) -> None:
        """Disconnect cleanly. Never raises."""
        if self._lost is None and self._connected.done():
            self._leaving = True
            self._paho.disconnect()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._gone()
        self.abort()

    async def _gone(self) -> None:
        while self._lost is None:
            self._drained.clear()
            await self._drained.wait()

    def abort(self) -> None:
        """Close at once, without a DISCONNECT."""
        self._end("the connection was closed here")
        raw: Any = self._paho.socket()
        if raw is not None:
            self._forget(raw)
            raw.close()

    # Sending

    async def publish(self, publish: Publish) -> None:
        """Publish at QoS 1. Returns once the broker has acknowledged it; raises PublishRefused if it refuses.

        Publishes go out in the order in which these calls begin.
        """
        self._check_open()
        properties: Any = UserProperties(publish.properties) if self.is_v5 and publish.properties else None
        info = self._paho.publish(publish.topic, bytes(publish.payload), 1, publish.retain, properties)
        reason = await self._answered(info.rc, info.mid, f"the publish to {publish.topic}")
        if code_of(reason) >= FIRST_FAILURE_CODE:
            raise PublishRefused(publish.topic, code_of(reason), words(reason))

    async def publish_together(self, publishes: Sequence[Publish]) -> None:
        """Publish at QoS 0, in order. Returns once the socket has all of them."""
        self._check_open()
        for publish in publishes:
            properties: Any = UserProperties(publish.properties) if self.is_v5 and publish.properties else None
            self._paho.publish(publish.topic, bytes(publish.payload), 0, publish.retain, properties)
        try:
            while self._paho.want_write() and self._lost is None:
                self._drained.clear()
                await asyncio.wait_for(self._drained.wait(), ANSWER_S)
        except TimeoutError:
            raise BrokerError(f"the broker has accepted no bytes for {ANSWER_S:g} s") from None
        self._check_open()

    async def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1 and wait for the grant. Raises Refused if a filter is refused."""
        self._check_open()
        wanted: Any = [(name, SubscribeOptions(qos=1) if self.is_v5 else 1) for name in filters]
        result, mid = self._paho.subscribe(wanted)
        reasons = await self._answered(result, mid, f"the subscription {', '.join(filters)}")
        for name, reason in zip(filters, reasons, strict=False):
            if code_of(reason) >= FIRST_FAILURE_CODE:
                raise refused_subscription(name, reason)

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe from filters. Raises BrokerError if the broker refuses."""
        self._check_open()
        result, mid = self._paho.unsubscribe(list(filters))
        reasons = await self._answered(result, mid, f"the unsubscription {', '.join(filters)}")
        for name, reason in zip(filters, reasons or (), strict=False):
            if code_of(reason) >= FIRST_FAILURE_CODE:
                raise BrokerError(f"the broker refuses to end the subscription {name}: {words(reason)}")

    async def arrived(self) -> Arrived:
        """Return the next received publish, including those received before the connection was lost."""
        found = await self._arrivals.get()
        if found is None:
            self._arrivals.put_nowait(None)
            raise BrokerError(self._lost or "the connection is closed")
        return found

    def _check_open(self) -> None:
        if self._lost is not None:
            raise BrokerError(self._lost)

    async def _answered(self, result: MQTTErrorCode, mid: int | None, what: str) -> Any:
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            raise BrokerError(self._lost or f"{what} could not be sent: {paho.error_string(result)}")
        answer = self._answers[mid] = self._loop.create_future()
        asked_at, heard_bytes = self._loop.time(), self.received_bytes
        try:
            while not (await asyncio.wait([answer], timeout=ANSWER_S))[0]:
                waited_s, before = self._loop.time() - asked_at, heard_bytes
                heard_bytes = self.received_bytes
                if heard_bytes == before or waited_s >= MAX_ANSWER_S:
                    raise BrokerError(f"no answer to {what} from the broker for {waited_s:.0f} s")
            return answer.result()
        finally:
            self._answers.pop(mid, None)

    @property
    def received_bytes(self) -> int:
        """Return the received bytes so far, as far as known; they show that the broker is alive."""
        return self._received_bytes

    # Callbacks of paho

    def _on_connect(self, _: Any, __: Any, ___: Any, reason: Any, properties: Any) -> None:
        if self._connected.done():
            return
        if code_of(reason) == 0:
            self.max_packet = getattr(properties, "MaximumPacketSize", None)
            self._connected.set_result(None)
        else:
            self._connected.set_exception(refused_connection(self._address.shown, reason, properties))

    def _on_disconnect(self, _: Any, __: Any, flags: Any, reason: Any, properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._end(f"the broker ended the connection: {words(reason, properties)}")
        elif str(reason) == "Keep alive timeout":
            self._end(f"the broker has not answered a ping for {KEEPALIVE_S} s")
        elif str(reason) == "Protocol error":
            self._end("the other end sent bytes that are not MQTT")
        else:
            self._end(self._cause())

    def _cause(self) -> str:
        """Return why the connection ended, if the broker gave no reason."""
        return (
            "the connection was closed here" if self._leaving else "the broker closed the connection without a reason"
        )

    def _end(self, reason: str) -> None:
        """End the connection, and tell all that wait why."""
        if self._lost is not None:
            return
        self._lost = reason
        if not self._connected.done():
            self._connected.set_exception(self._failure(reason))
        if not self._connected.cancelled():
            self._connected.exception()  # nobody may be waiting for it
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(BrokerError(reason))
        self._arrivals.put_nowait(None)
        self._drained.set()
        if self._ticking is not None:
            self._ticking.cancel()

    def _failure(self, reason: str) -> Exception:
        """Return why there was no answer to CONNECT."""
        return ConnectionAbortedError(reason) if "no MQTT" in reason else ConnectionResetError()

    def _answer(self, mid: int, reason: Any) -> None:
        answer = self._answers.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(reason)

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        nbytes = len(message.topic.encode()) + len(message.payload)
        self._received_bytes += nbytes
        self._arrivals.put_nowait(Arrived(message.topic, bytes(message.payload), message.retain, nbytes))

    async def _tick(self) -> None:
        while self._lost is None:
            await asyncio.sleep(TICK_S)
            self._guarded(self._paho.loop_misc)

    def _guarded(self, call: Any) -> None:
        """Call paho. Bytes that it cannot read end the connection, and never raise into the event loop."""
        try:
            call()
        except Exception as error:
            self._end(f"the other end sent bytes that are not MQTT: {error or type(error).__name__}")
            self.abort()

    # paho's own socket. It opens in another thread.

    def _soon(self, call: Any, sock: Any) -> None:
        self._loop.call_soon_threadsafe(call, sock)

    def _opened(self, sock: Any) -> None:
        if sock.fileno() < 0:
            return
        if isinstance(sock, socket.socket):
            sock.setsockopt(*TCP_NODELAY_OPTION)
        self._loop.add_reader(sock.fileno(), self._readable, sock)

    def _readable(self, sock: Any) -> None:
        self._guarded(self._paho.loop_read)
        while isinstance(sock, ssl.SSLSocket) and sock.fileno() >= 0 and sock.pending():
            self._guarded(self._paho.loop_read)

    def _wait_for_room(self, sock: Any) -> None:
        # It may have been closed since then.
        if sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._guarded, self._paho.loop_write)

    def _has_room(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_writer(sock.fileno())
        self._drained.set()

    def _forget(self, sock: Any) -> None:
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock.fileno())
            self._loop.remove_writer(sock.fileno())
