"""The socket that paho gets from us: the real one behind it carries our own publishes beside paho's packets.

paho keeps the protocol (CONNECT, SUBSCRIBE, acknowledgements, pings). Publishes at QoS 0 pass it by in both directions,
without its copies. What paho sends overtakes whatever waits here and is not begun: signs of life never queue behind
payload. It must never look into a payload.
"""

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence

from paho.mqtt.client import PUBLISH
from paho.mqtt.exception import MalformedPacket

from broker.packet_reader import Packet, PacketReader
from broker.publish_packet import Arrived, puback_packet, read_publish
from broker.user_properties import variable
from mpsl.wire import Buffer

MAX_READS = 16
"""Packets that are read in one turn of the event loop,"""
MAX_READ_BYTES = 1024 * 1024
"""or bytes of them: what is read has to be acknowledged before the sender's window is full."""
MAX_BUFFERS = 1024
"""What one call of the system takes (IOV_MAX of Linux)."""
MAX_GATHERED_BYTES = 2 * 1024 * 1024
"""Bytes of packets that are offered to the system in one call."""
SLOW_S = 0.2
"""Seconds without room in the socket that tell a slow link."""
UNSENT_BYTES = 64 * 1024
"""What the system may then hold that it has not sent yet: what is urgent waits behind that. A fast link would pay a
third more CPU for a byte for it, so there the system decides."""
TYPE = 0xF0
"""The bits of a packet's first byte that say what it is."""


class _UnsentPacket:
    """What is left of one packet: its buffers, and their bytes."""

    __slots__ = ("buffers", "left")

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers
        self.left = sum(map(len, buffers))

    def advance(self, sent: int) -> None:
        """Forget the first `sent` bytes, fewer than there are; no empty buffer stays in front."""
        self.left -= sent
        gone = 0
        while sent >= len(self.buffers[gone]):
            sent -= len(self.buffers[gone])
            gone += 1
        del self.buffers[:gone]
        if sent:
            self.buffers[0] = memoryview(self.buffers[0])[sent:]


class PacketSocket:
    """Looks like a socket to paho (`recv`, `send`, `close`, `fileno`, `setblocking`).

    `raw` is connected and non-blocking. `deliver` gets each publish; `control` is called when paho has to `loop_read`.
    `error` says why the connection is lost, once it is.
    """

    def __init__(
        self, raw: socket.socket, is_v5: bool, deliver: Callable[[Arrived], None], control: Callable[[], None]
    ) -> None:
        self.raw = raw
        self.error: Exception | None = None
        self.received_bytes = 0
        self._is_v5 = is_v5
        self._deliver = deliver
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(self._receive)
        self._tls = isinstance(raw, ssl.SSLSocket)
        self._inbox = bytearray()
        """Packets that paho has not taken yet."""
        self._begun: deque[_UnsentPacket] = deque()
        self._urgent: deque[_UnsentPacket] = deque()
        self._bulk: deque[_UnsentPacket] = deque()
        self._writing = False
        self._full_at: float | None = None
        self._slow = False
        self._closing = False
        self._progress = asyncio.Event()
        self._loop.add_reader(raw.fileno(), self._readable)

    # What paho calls

    def recv(self, size: int) -> bytes:
        """Bytes of the packets that are paho's; b"" when the connection is lost."""
        if not self._inbox:
            if self.error is not None:
                return b""
            raise BlockingIOError
        taken = bytes(self._inbox[:size])
        del self._inbox[:size]
        return taken

    def send(self, data: Buffer) -> int:
        """Take a whole packet of paho's; it goes out ahead of all publishes that are not begun."""
        if self.error is not None or self._closing:
            raise BrokenPipeError("the connection is closed")
        self._urgent.append(_UnsentPacket([bytes(data)]))
        self._flush()
        return len(data)

    def close(self) -> None:
        """Close once what is queued has left; `closed` waits for that."""
        self._closing = True
        if not self._pending:
            self.abort()

    def fileno(self) -> int:
        """Of the socket behind; -1 once it is closed."""
        return self.raw.fileno()

    def setblocking(self, flag: bool) -> None:
        """Nothing: it never blocks."""

    # What the client calls

    def put(self, packets: Sequence[list[Buffer]]) -> None:
        """Queue publishes at QoS 0, and send what the socket takes now."""
        sent = 0
        if not self._pending and not self._tls and self.error is None:
            # Mostly the socket takes all: then no note is made of each packet.
            buffers = [buffer for packet in packets for buffer in packet]
            try:
                sent = self.raw.sendmsg(buffers[:MAX_BUFFERS])
            except BlockingIOError:
                pass
            except OSError as error:
                self._fail(error)
                return
            if sent == sum(map(len, buffers)):
                return
        self._bulk.extend(map(_UnsentPacket, packets))
        self._advance(sent)
        self._flush()

    async def drained(self, timeout: float) -> None:
        """Wait until all publishes have left; raises TimeoutError when the socket takes nothing for `timeout`."""
        while (self._bulk or self._begun) and self.error is None:
            self._progress.clear()
            await asyncio.wait_for(self._progress.wait(), timeout)

    async def closed(self, timeout: float) -> None:
        """Wait until it is closed, and close it at the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.raw.fileno() >= 0:
                    self._progress.clear()
                    await self._progress.wait()
        self.abort()

    def feed(self, packet: bytes) -> None:
        """Let paho read a packet that did not come over the socket."""
        self._inbox += packet
        self._control()

    def abort(self, error: Exception | None = None) -> None:
        """Close at once; what is queued is dropped."""
        if self.raw.fileno() >= 0:
            self._loop.remove_reader(self.raw.fileno())
            self._loop.remove_writer(self.raw.fileno())
            self.raw.close()
        self.error = self.error or error or ConnectionResetError("the connection is closed")
        for queue in (self._begun, self._urgent, self._bulk):
            queue.clear()
        self._writing = False
        self._progress.set()

    # The socket behind

    @property
    def _pending(self) -> bool:
        return bool(self._begun or self._urgent or self._bulk)

    def _fail(self, error: Exception) -> None:
        self.abort(error)
        self._loop.call_soon(self._control)

    def _readable(self) -> None:
        """Packets as long as there are any: each would cost a turn of the event loop."""
        count = read = 0
        try:
            while self.error is None:
                packet = self._reader.next()
                self._handle(packet)
                count, read = count + 1, read + len(packet.body)
                if (count >= MAX_READS or read >= MAX_READ_BYTES) and not self._ahead:
                    break
        except BlockingIOError:
            pass
        except (OSError, EOFError, MalformedPacket) as error:
            self._fail(error)
        if self._pending and not self._writing:
            self._flush()

    @property
    def _ahead(self) -> bool:
        """Whether there is something that the socket will not announce: it has been received, or decrypted."""
        return self._reader.ahead or (isinstance(self.raw, ssl.SSLSocket) and bool(self.raw.pending()))

    def _receive(self, room: memoryview) -> int:
        try:
            received = self.raw.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        self.received_bytes += received
        return received

    def _handle(self, packet: Packet) -> None:
        """A publish is handed on, and acknowledged where it asks for that; all else is paho's."""
        if packet.header & TYPE == PUBLISH and packet.header >> 1 & 3 < 2:
            arrived, identifier = read_publish(packet, self._is_v5)
            self._deliver(arrived)
            if identifier and self.error is None:
                self.send(puback_packet(identifier))
        else:
            self.feed(bytes([packet.header]) + variable(len(packet.body)) + packet.body)

    def _flush(self) -> None:
        """Send until all has left or the socket takes no more."""
        if self._full_at is not None:
            self._found_room()
        while self._pending:
            packets = self._next()
            try:
                sent = self._transmit(packets)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_for_room(packets[0])
                return
            except ssl.SSLWantReadError:
                self._hold(packets[0])
                return
            except OSError as error:
                self._fail(error)
                return
            self._advance(sent)
        if self._writing:
            self._loop.remove_writer(self.raw.fileno())
            self._writing = False
        if self._closing:
            self.abort()

    def _wait_for_room(self, first: _UnsentPacket) -> None:
        self._hold(first)
        self._full_at = self._loop.time()
        if not self._writing:
            self._loop.add_writer(self.raw.fileno(), self._flush)
            self._writing = True

    def _found_room(self) -> None:
        assert self._full_at is not None
        if not self._slow and self._loop.time() - self._full_at > SLOW_S and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            self._slow = True
        self._full_at = None

    def _hold(self, first: _UnsentPacket) -> None:
        """TLS may have taken the first packet's beginning without saying so: nothing may go before it now."""
        if self._tls and not self._begun:
            (self._urgent if self._urgent else self._bulk).popleft()
            self._begun.append(first)

    def _next(self) -> list[_UnsentPacket]:
        """The packets that go next, in order, as many as one call may take."""
        packets: list[_UnsentPacket] = []
        count = size = 0
        for queue in (self._begun, self._urgent, self._bulk):
            for packet in queue:
                packets.append(packet)
                count, size = count + len(packet.buffers), size + packet.left
                if count >= MAX_BUFFERS or size >= MAX_GATHERED_BYTES:
                    return packets
        return packets

    def _transmit(self, packets: Sequence[_UnsentPacket]) -> int:
        if self._tls:
            return self.raw.send(packets[0].buffers[0])
        buffers = [buffer for packet in packets for buffer in packet.buffers]
        return self.raw.sendmsg(buffers[:MAX_BUFFERS])

    def _advance(self, sent: int) -> None:
        """The first `sent` bytes of what is queued have left."""
        for queue in (self._begun, self._urgent, self._bulk):
            while queue and sent >= queue[0].left:
                sent -= queue.popleft().left
            if queue and sent:
                packet = queue.popleft()
                packet.advance(sent)
                self._begun.append(packet)
                break
        self._progress.set()
