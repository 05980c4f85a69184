"""A message as bytes, and back: msgpack header, then the raw little-endian planes of its tensor, each aligned to 64.

    u32 length of the header | header | zeros to 64 | plane | zeros to 64 | plane …

header = {"k": kind, "f": fields, "t": [codec, dtype, shape, [bytes of each plane]]}, without "t" where a kind has no
tensor. No pickle: what is decoded is numbers, strings and lists, checked against the kind's own types, and a plane is a
view of the received buffer. Sizes are checked against the buffer before anything is made of them. The text of a
WireError begins with its class and a colon, so that what is dropped can be counted under few names.
"""

import dataclasses
import struct
from typing import Any

import msgpack
import msgspec

from mpsl.errors import WireError
from mpsl.messages import KINDS, Message, Tensor, Ticket

ALIGNMENT = 64
MAX_HEADER = 16 * 1024
MAX_TEXT = 1024
"""Characters of a text (a reason, an error) that travel; the rest is cut off, for a reader refuses longer ones."""
MAX_DIMENSIONS = 8
DTYPES = {"float32": 4, "int64": 8, "int32": 4, "float64": 8, "uint8": 1, "bool": 1}
"""What a tensor may decode to, with the bytes of one element."""

Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")
_ZEROS = bytes(ALIGNMENT)


def padding(length: int) -> int:
    """How many zeros bring `length` to the next multiple of 64."""
    return -length % ALIGNMENT


def encode(message: Message) -> list[Buffer]:
    """The message as a list of buffers to be sent one after the other; planes are not copied."""
    tensor: Tensor | None = getattr(message, "tensor", None)
    header: dict[str, Any] = {"k": message.kind, "f": _fields(message)}
    planes: list[memoryview] = []
    if tensor is not None:
        planes = [plane.cast("B") for plane in tensor.planes]
        header["t"] = [tensor.codec, tensor.dtype, list(tensor.shape), [plane.nbytes for plane in planes]]
    packed = msgpack.packb(header, unicode_errors="replace")
    start = _LENGTH.pack(len(packed)) + packed
    if not planes:
        return [start]
    buffers: list[Buffer] = [start + _ZEROS[: padding(len(start))]]
    for plane in planes[:-1]:
        buffers += [plane, _ZEROS[: padding(plane.nbytes)]]
    buffers.append(planes[-1])
    return buffers


def decode(buffer: Buffer) -> Message:
    """The message in `buffer`, planes as views of it; raises WireError for anything else."""
    view = memoryview(buffer)
    header, body = header_of(view)
    name, fields = header.get("k"), header.get("f")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(fields, dict):
        raise WireError(f"kind: {name!r} is none of ours")
    try:
        message = msgspec.convert(fields, _FIELDS[kind], strict=True)
    except msgspec.ValidationError as error:
        raise WireError(f"fields: {kind.kind}: {error}") from None
    values = msgspec.structs.asdict(message)
    if kind in _WITH_TENSOR:
        values["tensor"] = _tensor(header.get("t"), view[body:])
    elif "t" in header or body < view.nbytes:
        raise WireError(f"tensor: {kind.kind} carries none")
    return kind(**values)


def header_of(view: memoryview) -> tuple[dict[str, Any], int]:
    """The header of an encoded message and where its first plane begins; needs only the message's first chunk."""
    if view.nbytes < _LENGTH.size:
        raise WireError(f"truncated: {view.nbytes} bytes are no header")
    (length,) = _LENGTH.unpack_from(view)
    if length > MAX_HEADER or _LENGTH.size + length > view.nbytes:
        raise WireError(f"header: {length} bytes; at most {MAX_HEADER} and no more than arrived are allowed")
    try:
        header = msgpack.unpackb(
            view[_LENGTH.size : _LENGTH.size + length], max_str_len=4 * MAX_TEXT, max_array_len=64, max_map_len=64
        )
    except Exception as error:
        raise WireError(f"header: is not msgpack: {error}") from None
    if not isinstance(header, dict):
        raise WireError("header: is no map")
    end = _LENGTH.size + length
    return header, end + padding(end)


def _tensor(described: object, body: memoryview) -> Tensor:
    match described:
        case [str(codec), str(dtype), list(shape), list(sizes)]:
            pass
        case _:
            raise WireError("tensor: is not described as [codec, dtype, shape, sizes]")
    if dtype not in DTYPES:
        raise WireError(f"tensor: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**40 for n in [*shape, *sizes]):
        raise WireError(f"tensor: shape {shape} or sizes {sizes} are not at most {MAX_DIMENSIONS} integers from 0")
    planes = []
    position = 0
    for size in sizes:
        if position + size > body.nbytes:
            raise WireError(f"truncated: a plane of {size} bytes where {max(0, body.nbytes - position)} are left")
        planes.append(body[position : position + size])
        position += size + padding(size)
    if position - (padding(sizes[-1]) if sizes else 0) != body.nbytes:
        raise WireError(f"tensor: {body.nbytes} bytes of planes where the header announces {sum(sizes)}")
    return Tensor(codec, dtype, tuple(shape), tuple(planes))


def _fields(message: Message) -> dict[str, Any]:
    return {name: _field(value) for name, value in vars(message).items() if name != "tensor"}


def _field(value: object) -> object:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return vars(value) if isinstance(value, Ticket) else value


def _without_tensor(kind: type[Message]) -> type[msgspec.Struct]:
    """The kind's fields as a strict structure of their own: what msgspec checks a header against."""
    fields = [
        (field.name, field.type, msgspec.NODEFAULT if field.default is dataclasses.MISSING else field.default)
        for field in dataclasses.fields(kind)
        if field.name != "tensor"
    ]
    return msgspec.defstruct(f"{kind.__name__}Fields", fields, forbid_unknown_fields=True, frozen=True)


_FIELDS = {kind: _without_tensor(kind) for kind in KINDS.values()}
_WITH_TENSOR = {kind for kind in KINDS.values() if any(field.name == "tensor" for field in dataclasses.fields(kind))}
