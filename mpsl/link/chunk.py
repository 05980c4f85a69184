"""A chunk and an acknowledgement as bytes: what one MQTT publish of the binary branches carries.

    "MPSL" | u8 version | u8 type (1 chunk, 2 ack) | u16 bytes of header | header (msgpack list) | zeros to 64 | body

Every chunk repeats all that is needed to place it: the sender's boot, the term, the link's session, its own sequence
number, and its message's number, index, total and size, so that no chunk depends on another having arrived.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgpack

from mpsl import PROTOCOL
from mpsl.errors import WireError
from mpsl.pieces import Pieces
from mpsl.wire import Buffer, padding

MAGIC = b"MPSL"
CHUNK, ACK = 1, 2
MAX_HEADER = 4096
MAX_GAPS = 128
"""Gaps that one ack names at most; it then covers no more than up to the first gap that it leaves out."""
MOST_AHEAD = 512
"""Chunks of a link from the oldest not acknowledged to the newest; well under the 1000 that a broker queues."""

_PREFIX = struct.Struct("<4sBBH")
_ZEROS = bytes(64)


@dataclass(frozen=True)
class ChunkHeader:
    """Where a chunk belongs: `length` bytes at `offset` of a message of `size`, of whose `total` chunks it is `index`.

    The first begins the message and the last ends it. `sequence` counts a session's chunks, `message` its messages.
    `checked` is for those that come in: it takes as long as all else that is done for a header.
    """

    boot: str
    term: int
    session: int
    sequence: int
    message: int
    index: int
    total: int
    offset: int
    size: int
    length: int

    def checked(self) -> "ChunkHeader":
        """Itself; raises WireError where it cannot be."""
        boot, *numbers = vars(self).values()
        if type(boot) is not str or not _countable(*numbers):
            raise WireError("chunk: has fields of wrong types")
        begins, ends = self.offset == 0, self.end == self.size
        if not (self.length > 0 and self.end <= self.size and self.index < self.total <= self.size):
            raise WireError(f"chunk: {self.length} bytes at {self.offset} do not fit a message of {self.size}")
        if begins != (self.index == 0) or ends != (self.index == self.total - 1):
            raise WireError(f"chunk: {self.offset} to {self.end} of {self.size} is not {self.index} of {self.total}")
        return self

    @property
    def end(self) -> int:
        """Where in the message it ends."""
        return self.offset + self.length


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

    def __post_init__(self) -> None:
        texts = (self.boot, self.to_boot, self.lane)
        numbers = (self.term, self.session, self.next, self.highest, *(number for gap in self.gaps for number in gap))
        if any(type(text) is not str for text in texts) or not _countable(*numbers):
            raise WireError("ack: has fields of wrong types")
        if any(not self.next <= first < end <= self.highest for first, end in self.gaps) or self.next > self.highest:
            raise WireError("ack: names gaps outside of what it covers")


def encode_chunk(header: ChunkHeader, body: Sequence[Buffer]) -> Pieces:
    """The payload of one publish; the body stays where it is."""
    return Pieces(_start(CHUNK, list(vars(header).values())), *body)


def encode_ack(ack: Ack) -> bytes:
    """The payload of an acknowledgement."""
    return _start(ACK, list(vars(ack).values()))


def decode(payload: Buffer) -> tuple[ChunkHeader, memoryview] | Ack:
    """A chunk's header and body (a view of the payload), or an ack; raises WireError for anything else."""
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
        fields = msgpack.unpackb(view[_PREFIX.size : end], max_str_len=64, max_array_len=MAX_GAPS, max_map_len=0)
        if kind == CHUNK:
            header = ChunkHeader(*fields).checked()
            body = view[end + padding(end) :]
            if body.nbytes != header.length:
                raise WireError(f"truncated: chunk of {body.nbytes} bytes that announces {header.length}")
            return header, body
        if kind == ACK:
            *_, gaps = fields
            fields[-1] = tuple((first, end) for first, end in gaps)
            return Ack(*fields)
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"header: cannot be read: {error}") from None
    raise WireError(f"type: {kind} is none of ours")


def _countable(*numbers: int) -> bool:
    return {*map(type, numbers)} == {int} and min(numbers) >= 0 and max(numbers) < 2**63


def _start(kind: int, fields: Sequence[object]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    end = _PREFIX.size + len(packed)
    return _PREFIX.pack(MAGIC, PROTOCOL, kind, len(packed)) + packed + _ZEROS[: padding(end)]
