"""Encodes and decodes chunks and acknowledgements: the payload of one MQTT publish on the binary branches.

    "MPSL" | u8 version | u8 type (1 chunk, 2 ack) | u16 bytes of header | header (msgpack list) | zeros to 64 | body

Every chunk carries everything needed to place it: the sender's boot, the term, the link's session, its own sequence
number, and its message's number, index, total and size. So no chunk depends on another having arrived.
"""

import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec

from mpsl import PROTOCOL
from mpsl.errors import WireError
from mpsl.pieces import Pieces
from mpsl.wire import Buffer, padding

MAGIC = b"MPSL"
CHUNK, ACK = 1, 2
MAX_HEADER = 4096
MAX_GAPS = 128
"""Gaps that one ack can name; with more, it covers only the range up to the first gap that it leaves out."""
MAX_AHEAD = 512
"""Chunks of a link from the oldest unacknowledged to the newest; well below the 1000 that a broker queues."""

_PREFIX = struct.Struct("<4sBBH")
_ZEROS = bytes(64)

# What a field of an incoming header may be. A bool is not a number, and no number is negative.
_Text = Annotated[str, msgspec.Meta(max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Gaps = Annotated[tuple[tuple[_Count, _Count], ...], msgspec.Meta(max_length=MAX_GAPS)]


class ChunkHeader(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """The place of a chunk: `length` bytes at `offset` of a message of `size`, of whose `total` chunks it is `index`.

    The first begins the message and the last ends it. `sequence` counts a session's chunks, `message` its messages.
    Call `checked` on incoming ones.
    """

    boot: _Text
    term: _Count
    session: _Count
    sequence: _Count
    message: _Count
    index: _Count
    total: _Count
    offset: _Count
    size: _Count
    length: _Count

    def checked(self) -> "ChunkHeader":
        """Return itself. Raises WireError if it contradicts itself."""
        begins, ends = self.offset == 0, self.end == self.size
        if not (self.length > 0 and self.end <= self.size and self.index < self.total <= self.size):
            raise WireError(f"chunk: {self.length} bytes at {self.offset} do not fit a message of {self.size}")
        if begins != (self.index == 0) or ends != (self.index == self.total - 1):
            raise WireError(f"chunk: {self.offset} to {self.end} of {self.size} is not {self.index} of {self.total}")
        return self

    @property
    def end(self) -> int:
        """The offset in the message where it ends."""
        return self.offset + self.length


class Ack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All chunks before `next` have arrived, and those up to `highest` except the `gaps` [first, end).

    `boot` is the acknowledging process; `to_boot`, `lane` and `session` name the link that is acknowledged.
    """

    boot: _Text
    term: _Count
    to_boot: _Text
    lane: _Text
    session: _Count
    next: _Count
    highest: _Count
    gaps: _Gaps

    def __post_init__(self) -> None:
        if any(not self.next <= first < end <= self.highest for first, end in self.gaps) or self.next > self.highest:
            raise WireError("ack: names gaps outside of its range")


def encode_chunk(header: ChunkHeader, body: Sequence[Buffer]) -> Pieces:
    """Return the payload of one publish. The body, whose length is in the header, is not copied."""
    start = _start(CHUNK, header)
    return Pieces((start, *body), len(start) + header.length)


def encode_ack(ack: Ack) -> bytes:
    """Return the payload of an acknowledgement."""
    return _start(ACK, ack)


def decode(payload: Buffer) -> tuple[ChunkHeader, memoryview] | Ack:
    """Return a chunk's header and body (a view of the payload), or an ack. Raises WireError for anything else."""
    view = memoryview(payload)
    if view.nbytes < _PREFIX.size:
        raise WireError(f"foreign: {view.nbytes} bytes are too few")
    magic, version, kind, length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise WireError("foreign: does not begin with MPSL")
    if version != PROTOCOL:
        raise WireError(f"protocol: {version}, this process speaks {PROTOCOL}")
    if length > MAX_HEADER or _PREFIX.size + length > view.nbytes:
        raise WireError(f"truncated: header of {length} bytes")
    end = _PREFIX.size + length
    try:
        if kind == CHUNK:
            header = _CHUNK_HEADER.decode(view[_PREFIX.size : end]).checked()
            body = view[end + padding(end) :]
            if body.nbytes != header.length:
                raise WireError(f"truncated: chunk of {body.nbytes} bytes that announces {header.length}")
            return header, body
        if kind == ACK:
            return _ACK_HEADER.decode(view[_PREFIX.size : end])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"header: cannot be read: {error}") from None
    raise WireError(f"type: {kind} is unknown")


_CHUNK_HEADER = msgspec.msgpack.Decoder(ChunkHeader)
_ACK_HEADER = msgspec.msgpack.Decoder(Ack)


def _start(kind: int, header: ChunkHeader | Ack) -> bytes:
    packed = msgspec.msgpack.encode(header)
    end = _PREFIX.size + len(packed)
    return _PREFIX.pack(MAGIC, PROTOCOL, kind, len(packed)) + packed + _ZEROS[: padding(end)]
