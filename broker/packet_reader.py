"""Cuts what a socket receives into MQTT packets, with few system calls and without large copies.

Many small packets come through one buffer at a time; the rest of a large packet is received straight into its own
memory. It knows the fixed header (section 2.1 of MQTT 5) and nothing else. It must never reuse a packet's memory.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from paho.mqtt.exception import MalformedPacket

READ_AHEAD_BYTES = 16 * 1024
"""Bytes to read while the length of the next packet is not known."""
MAX_HEADER = 5
"""The largest fixed header, in bytes."""


class Packet(NamedTuple):
    """The first byte (type and flags), and what follows the fixed header."""

    header: int
    body: memoryview


class PacketReader:
    """The packets of one connection. `receive` fills at least one byte of the given memory and returns how many.

    `receive` returns 0 at the end, and raises BlockingIOError if there is nothing to read; then call `next` again
    later.
    """

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        self._receive = receive
        self._buffer = memoryview(bytearray(READ_AHEAD_BYTES))
        self._begin = self._end = 0
        self._packet: Packet | None = None
        self._filled = 0

    @property
    def ahead(self) -> bool:
        """Whether received bytes are left that the socket will not announce again."""
        return self._begin < self._end

    def next(self) -> Packet:
        """Return the next whole packet. Raises MalformedPacket, EOFError at the end, and what `receive` raises."""
        packet = self._packet or self._start()
        while self._filled < len(packet.body):
            self._filled += self._received(packet.body[self._filled :])
        self._packet = None
        return packet

    def _start(self) -> Packet:
        while True:
            size = shift = 0
            for at in range(self._begin + 1, min(self._end, self._begin + MAX_HEADER)):
                size |= (self._buffer[at] & 127) << shift
                shift += 7
                if self._buffer[at] < 128:
                    return self._begun(self._buffer[self._begin], at + 1, size)
            if self._end - self._begin >= MAX_HEADER:
                raise MalformedPacket("a remaining length of more than four bytes")
            if self._begin < self._end:
                left = bytes(self._buffer[self._begin : self._end])
                self._buffer[: len(left)] = left
            self._begin, self._end = 0, self._end - self._begin
            self._end += self._received(self._buffer[self._end :])

    def _begun(self, header: int, at: int, size: int) -> Packet:
        """Copy the packet's first bytes to separate memory, which costs nothing until it is filled."""
        self._filled = min(size, self._end - at)
        self._begin = at + self._filled
        self._packet = Packet(header, np.empty(size, np.uint8).data)
        self._packet.body[: self._filled] = self._buffer[at : self._begin]
        return self._packet

    def _received(self, room: memoryview) -> int:
        received = self._receive(room)
        if not received:
            raise EOFError("the connection has ended")
        return received
