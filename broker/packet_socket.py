"""The socket that paho uses. The real one behind it also carries publishes that bypass paho.

paho handles the protocol (CONNECT, SUBSCRIBE, acknowledgements, pings). Publishes at QoS 0 bypass it in both
directions, without its copies. Packets from paho overtake all publishes that are not partly sent, so signs of life
never queue behind payload. It must never look into a payload.
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
"""The maximum number of packets that are read in one turn of the event loop."""
MAX_READ_BYTES = 1024 * 1024
"""The maximum of their bytes, so that acknowledgements go out before the sender's window is full."""
MAX_BUFFERS = 1024
"""The maximum number of buffers in one system call (IOV_MAX of Linux)."""
MAX_GATHERED_BYTES = 2 * 1024 * 1024
"""The maximum bytes of packets in one system call."""
SLOW_LINK_S = 0.2
"""A link is slow if the socket has no room for this long."""
UNSENT_BYTES = 64 * 1024
"""The maximum bytes that the system then holds unsent, because urgent packets wait behind them. On a fast link this
would cost a third more CPU per byte, so there the system decides."""
TYPE_MASK = 0xF0
"""The bits of a packet's first byte that hold its type."""


class _UnsentPacket:
    """The unsent rest of one packet: its buffers, and their bytes."""

    __slots__ = ("buffers", "left")

    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers
        self.left = sum(map(len, buffers))

    def advance(self, sent: int) -> None:
        """Drop the first `sent` bytes, fewer than are left; the first buffer is never empty afterwards."""
        self.left -= sent
        gone = 0
        while sent >= len(self.buffers[gone]):
            sent -= len(self.buffers[gone])
            gone += 1
        del self.buffers[:gone]
        if sent:
            self.buffers[0] = memoryview(self.buffers[0])[sent:]


class PacketSocket:
    """Has the methods of a socket that paho uses (`recv`, `send`, `close`, `fileno`, `setblocking`).

    `raw` is connected and non-blocking. `deliver` receives each publish; `control` is called when paho must
    `loop_read`. `error` is the reason of a lost connection.
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
        """Packets that paho has not read yet."""
        self._begun: deque[_UnsentPacket] = deque()
        self._urgent: deque[_UnsentPacket] = deque()
        self._bulk: deque[_UnsentPacket] = deque()
        self._writing = False
        self._full_at: float | None = None
        self._slow = False
        self._closing = False
        self._progress = asyncio.Event()
        self._loop.add_reader(raw.fileno(), self._readable)

    # Called by paho

    def recv(self, size: int) -> bytes:
        """Return bytes of the packets for paho; b"" when the connection is lost."""
        if not self._inbox:
            if self.error is not None:
                return b""
            raise BlockingIOError
        taken = bytes(self._inbox[:size])
        del self._inbox[:size]
        return taken

    def send(self, data: Buffer) -> int:
        """Take a whole packet from paho. It goes out ahead of all publishes that are not partly sent."""
        if self.error is not None or self._closing:
            raise BrokenPipeError("the connection is closed")
        self._urgent.append(_UnsentPacket([bytes(data)]))
        self._flush()
        return len(data)

    def close(self) -> None:
        """Close once everything queued is sent; `closed` waits for that."""
        self._closing = True
        if not self._pending:
            self.abort()

    def fileno(self) -> int:
        """Return the descriptor of the real socket; -1 once it is closed."""
        return self.raw.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do nothing, because this socket never blocks."""

    # Called by the client

    def put(self, packets: Sequence[list[Buffer]]) -> None:
        """Queue publishes at QoS 0, and send as much as the socket accepts now."""
        sent = 0
        if not self._pending and not self._tls and self.error is None:
            # Usually the socket accepts everything, so packets need not be queued one by one.
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
        """Wait until all publishes are sent. Raises TimeoutError if the socket accepts nothing for `timeout`."""
        while (self._bulk or self._begun) and self.error is None:
            self._progress.clear()
            await asyncio.wait_for(self._progress.wait(), timeout)

    async def closed(self, timeout: float) -> None:
        """Wait until the socket is closed; close it at the deadline."""
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
        """Close at once and drop the queue."""
        if self.raw.fileno() >= 0:
            self._loop.remove_reader(self.raw.fileno())
            self._loop.remove_writer(self.raw.fileno())
            self.raw.close()
        self.error = self.error or error or ConnectionResetError("the connection is closed")
        for queue in (self._begun, self._urgent, self._bulk):
            queue.clear()
        self._writing = False
        self._progress.set()

    # The real socket

    @property
    def _pending(self) -> bool:
        return bool(self._begun or self._urgent or self._bulk)

    def _fail(self, error: Exception) -> None:
        self.abort(error)
        self._loop.call_soon(self._control)

    def _readable(self) -> None:
        """Read packets as long as there are any, because each event loop turn has a cost."""
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
        """Whether bytes are received or decrypted that the socket will not announce."""
        return self._reader.ahead or (isinstance(self.raw, ssl.SSLSocket) and bool(self.raw.pending()))

    def _receive(self, room: memoryview) -> int:
        try:
            received = self.raw.recv_into(room)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        self.received_bytes += received
        return received

    def _handle(self, packet: Packet) -> None:
        """Deliver a publish, and acknowledge it at QoS 1. All other packets go to paho."""
        if packet.header & TYPE_MASK == PUBLISH and packet.header >> 1 & 3 < 2:
            arrived, identifier = read_publish(packet, self._is_v5)
            self._deliver(arrived)
            if identifier and self.error is None:
                self.send(puback_packet(identifier))
        else:
            self.feed(bytes([packet.header]) + variable(len(packet.body)) + packet.body)

    def _flush(self) -> None:
        """Send until the queue is empty or the socket is full."""
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
        if not self._slow and self._loop.time() - self._full_at > SLOW_LINK_S and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self.raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            self._slow = True
        self._full_at = None

    def _hold(self, first: _UnsentPacket) -> None:
        """Keep the first packet in front, because TLS may have consumed its beginning without reporting it."""
        if self._tls and not self._begun:
            (self._urgent if self._urgent else self._bulk).popleft()
            self._begun.append(first)

    def _next(self) -> list[_UnsentPacket]:
        """Return the next packets, in order, as many as fit in one call."""
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
        """Remove the first `sent` bytes from the queue."""
        for queue in (self._begun, self._urgent, self._bulk):
            while queue and sent >= queue[0].left:
                sent -= queue.popleft().left
            if queue and sent:
                packet = queue.popleft()
                packet.advance(sent)
                self._begun.append(packet)
                break
        self._progress.set()
