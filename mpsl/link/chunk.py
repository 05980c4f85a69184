"""A chunk and an acknowledgement as bytes: what one MQTT publish of the binary branches carries.

    "MPSL" | u8 version | u8 type (1 chunk, 2 ack) | u16 length of the header | header (msgpack list) | zeros to 64 | body

Every chunk repeats all that is needed to place it: the sender's boot, the term, the link's session, its own sequence
number, and its message's number, index, total and size, so that no chunk depends on another having arrived.
"""

import struct
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import msgpack

from mpsl import PROTOCOL
from mpsl.errors import WireError
from mpsl.wire import Buffer, padding

MAGIC = b"MPSL"
CHUNK, ACK = 1, 2
MAX_HEADER = 4096

_PREFIX = struct.Struct("<4sBBH")
_ZEROS = bytes(64)


@dataclass(frozen=True)
class ChunkHeader:
    """Where a chunk belongs. `sequence` counts a session's chunks, `offset` and `size` are bytes of the message."""

    boot: str
    term: int
    session: int
    sequence: int
    message: int
    index: int
    total: int
    offset: int
    size: int

    def __post_init__(self) -> None:
        numbers = (self.term, self.session, self.sequence, self.message, self.index, self.total, self.offset, self.size)
        if type(self.boot) is not str or any(type(n) is not int or not 0 <= n < 2**63 for n in numbers):
            raise WireError("chunk header has fields of wrong types")
        if not 0 <= self.index < self.total or self.offset > self.size or self.size == 0:
            raise WireError(f"chunk {self.index} of {self.total} at {self.offset} of {self.size} bytes cannot be")


@dataclass(frozen=True)
class Ack:
    """All chunks before `next` have arrived, and those up to `highest` except the `gaps` [first, end).

    `boot` is the acknowledging process; `to_boot`, `lane` and `session` name the link that is acknowledged.
    """

    boot: str
    term: int
    to_boot: str
    lane: str
    session: int
    next: int
    highest: int
    gaps: tuple[tuple[int, int], ...]


def encode_chunk(header: ChunkHeader, body: Sequence[Buffer]) -> bytes:
    """The payload of one publish; the one copy that sending makes on our side."""
    return b"".join([_start(CHUNK, list(astuple(header))), *body])


def encode_ack(ack: Ack) -> bytes:
    """The payload of an acknowledgement."""
    return _start(ACK, [*astuple(ack)[:-1], [list(gap) for gap in ack.gaps]])


def decode(payload: Buffer) -> tuple[ChunkHeader, memoryview] | Ack:
    """A chunk's header and body (a view of the payload), or an ack; raises WireError for anything else."""
    view = memoryview(payload)
    if view.nbytes < _PREFIX.size:
        raise WireError(f"foreign: {view.nbytes} bytes are too few")
    magic, version, kind, length = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        raise WireError("foreign: does not begin with MPSL")
    if version != PROTOCOL:
        raise WireError(f"protocol {version}, this process speaks {PROTOCOL}")
    if length > MAX_HEADER or _PREFIX.size + length > view.nbytes:
        raise WireError(f"truncated: header of {length} bytes")
    end = _PREFIX.size + length
    try:
        fields = msgpack.unpackb(view[_PREFIX.size : end], max_str_len=64, max_array_len=512)
        if kind == CHUNK:
            header = ChunkHeader(*fields)
            body = view[end + padding(end) :]
            if header.offset + body.nbytes > header.size or (body.nbytes == 0 and header.size):
                raise WireError(f"chunk of {body.nbytes} bytes at {header.offset} in a message of {header.size}")
            return header, body
        if kind == ACK:
            *plain, gaps = fields
            return _checked(Ack(*plain, gaps=tuple((int(first), int(end)) for first, end in gaps)))
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"header cannot be read: {error}") from None
    raise WireError(f"unknown type {kind}")


def _start(kind: int, fields: list[object]) -> bytes:
    packed = msgpack.packb(fields)
    end = _PREFIX.size + len(packed)
    return _PREFIX.pack(MAGIC, PROTOCOL, kind, len(packed)) + packed + _ZEROS[: padding(end)]


def _checked(ack: Ack) -> Ack:
    texts = (ack.boot, ack.to_boot, ack.lane)
    numbers = (ack.term, ack.session, ack.next, ack.highest)
    if any(type(text) is not str for text in texts) or any(type(number) is not int for number in numbers):
        raise WireError("ack has fields of wrong types")
    if any(not ack.next <= first < end <= ack.highest for first, end in ack.gaps):
        raise WireError("ack names gaps outside of what it covers")
    return ack
