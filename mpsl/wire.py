"""A message as bytes, and back: msgpack header, then the raw little-endian planes of its tensor, each aligned to 64.

    u32 length of the header | header | zeros to 64 | plane | zeros to 64 | plane …

header = {"k": kind, "f": fields, "t": [codec, dtype, shape, [bytes of each plane], order, [others]]}, without "t" where
a kind has no tensor; order and others are left out where they are empty. No pickle: what is decoded is numbers, strings
and lists, checked against the kind's own types, and a plane is a view of the received buffer. Sizes are checked against
the buffer before anything is made of them. The text of a WireError begins with its class and a colon, so that what is
dropped can be counted under few names.
"""

import struct
from typing import Annotated, Any, Literal

import msgpack
import msgspec

from mpsl import link_messages  # noqa: F401  (registers its kinds)
from mpsl.errors import WireError
from mpsl.messages import KINDS, Message, Tensor

ALIGNMENT = 64
MAX_HEADER = 16 * 1024
MAX_TEXT = 1024
"""The maximum characters of a text (a reason, an error). The rest is cut off, because readers refuse longer ones."""
MAX_DIMENSIONS = 8
MAX_PLANES = 64
"""Maximum planes of a tensor."""
MAX_TENSORS = 64
"""Maximum tensors of a message."""
Dtype = Literal[
    "float32", "int64", "int32", "float64", "uint8", "bool", "float16", "bfloat16", "int16", "int8", "complex64"
]
DTYPES: dict[str, int] = {
    "float32": 4, "int64": 8, "int32": 4, "float64": 8, "uint8": 1, "bool": 1,
    "float16": 2, "bfloat16": 2, "int16": 2, "int8": 1, "complex64": 8,
}  # fmt: skip
"""What a tensor may decode to, with the bytes of one element."""

Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")
_ZEROS = bytes(ALIGNMENT)


def padding(length: int) -> int:
    """Return the number of zeros that pad `length` to a multiple of 64."""
    return -length % ALIGNMENT


def encode(message: Message) -> list[Buffer]:
    """Return the message as flat buffers to be sent one after the other, none of them empty; planes are not copied."""
    tensor: Tensor | None = getattr(message, "tensor", None)
    header: dict[str, Any] = {"k": message.kind, "f": _fields(message)}
    planes: list[memoryview] = []
    if tensor is not None:
        planes = [plane.cast("B") for plane in tensor.all_planes]
        header["t"] = _described(tensor)
    packed = msgspec.msgpack.encode(header)
    start = _LENGTH.pack(len(packed)) + packed
    if not planes:
        return [start]
    buffers: list[Buffer] = [start + _ZEROS[: padding(len(start))]]
    gap = 0
    for plane in planes:
        if gap:
            buffers.append(_ZEROS[:gap])
        if plane.nbytes:
            buffers.append(plane)
        gap = padding(plane.nbytes)
    return buffers


def decode(buffer: Buffer) -> Message:
    """Return the message in `buffer`, with planes as views of it. Raises WireError for anything else."""
    view = memoryview(buffer)
    packed, body = _split(view)
    try:
        header = _HEADER.decode(packed)
    except Exception as error:
        raise WireError(f"header: cannot be read: {error}") from None
    kind = KINDS.get(header.kind) if isinstance(header.kind, str) else None
    if kind is None or header.fields is msgspec.UNSET:
        raise WireError(f"kind: {header.kind!r} is unknown")
    try:
        fields = _FIELDS[kind].decode(header.fields)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"fields: {kind.kind}: {error}") from None
    if kind in _WITH_TENSOR:
        return kind(*msgspec.structs.astuple(fields), _tensor(header.tensor, view[body:]))
    if header.tensor is not msgspec.UNSET or body < view.nbytes:
        raise WireError(f"tensor: {kind.kind} has none")
    return kind(*msgspec.structs.astuple(fields))


def header_of(view: memoryview) -> tuple[dict[str, Any], int]:
    """Return the unchecked header of an encoded message and the offset of its first plane. The first chunk has both."""
    packed, body = _split(view)
    try:
        header = msgpack.unpackb(packed, max_str_len=4 * MAX_TEXT, max_array_len=64, max_map_len=64)
    except Exception as error:
        raise WireError(f"header: is not msgpack: {error}") from None
    if not isinstance(header, dict):
        raise WireError("header: is not a map")
    return header, body


def _split(view: memoryview) -> tuple[memoryview, int]:
    """Return the packed header, and the offset of the first plane."""
    if view.nbytes < _LENGTH.size:
        raise WireError(f"truncated: {view.nbytes} bytes are too few for a header")
    (length,) = _LENGTH.unpack_from(view)
    if length > MAX_HEADER or _LENGTH.size + length > view.nbytes:
        raise WireError(f"header: {length} bytes; at most {MAX_HEADER} and no more than arrived are allowed")
    end = _LENGTH.size + length
    return view[_LENGTH.size : end], end + padding(end)


def _tensor(described: msgspec.Raw | msgspec.UnsetType, body: memoryview) -> Tensor:
    if described is msgspec.UNSET:
        raise WireError("tensor: is missing")
    try:
        first = _TENSOR.decode(described)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise WireError(f"tensor: [codec, dtype, shape, sizes]: {error}") from None
    planes = []
    position = 0
    sizes = [size for each in (first, *first.others) for size in each.sizes]
    for size in sizes:
        if position + size > body.nbytes:
            raise WireError(f"truncated: a plane of {size} bytes, but {max(0, body.nbytes - position)} are left")
        planes.append(body[position : position + size])
        position += size + padding(size)
    if position - (padding(sizes[-1]) if sizes else 0) != body.nbytes:
        raise WireError(f"tensor: {body.nbytes} bytes of planes where the header announces {sum(sizes)}")
    taken = len(first.sizes)
    others = []
    for each in first.others:
        others.append(_made(each, planes[taken : taken + len(each.sizes)]))
        taken += len(each.sizes)
    return _made(first, planes[: len(first.sizes)], tuple(others))


def _made(described: "_Described | _Other", planes: list[memoryview], others: tuple[Tensor, ...] = ()) -> Tensor:
    order = described.order
    if order and sorted(order) != list(range(len(described.shape))):
        raise WireError(f"tensor: order {order} of {len(described.shape)} dimensions")
    return Tensor(described.codec, described.dtype, described.shape, tuple(planes), order, others)


def _described(tensor: Tensor) -> list[Any]:
    """What a header says of a tensor."""
    said = [tensor.codec, tensor.dtype, list(tensor.shape), [plane.nbytes for plane in tensor.planes]]
    if tensor.order or tensor.others:
        said.append(list(tensor.order))
    if tensor.others:
        said.append([_described(other) for other in tensor.others])
    return said


def _fields(message: Message) -> dict[str, Any]:
    return {name: _field(getattr(message, name)) for name in _NAMES[message.kind]}


def _field(value: object) -> object:
    if not isinstance(value, str):
        return value
    # File names and system errors may hold code points that are no characters.
    return value[:MAX_TEXT] if value.isascii() else value[:MAX_TEXT].encode(errors="replace").decode()


class _Header(msgspec.Struct):
    """A header. Its fields can be read once the kind is known."""

    kind: Any = msgspec.field(name="k", default=None)
    fields: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="f", default=msgspec.UNSET)
    tensor: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="t", default=msgspec.UNSET)


def _without_tensor(kind: type[Message]) -> msgspec.msgpack.Decoder[msgspec.Struct]:
    """Return a strict reader of the kind's fields: none missing, none unknown, each of its type."""
    fields = [
        (field.name, field.type, field.default) for field in msgspec.structs.fields(kind) if field.name != "tensor"
    ]
    return msgspec.msgpack.Decoder(
        msgspec.defstruct(f"{kind.__name__}Fields", fields, forbid_unknown_fields=True, frozen=True, gc=False)
    )


_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
_Shape = Annotated[tuple[_Count, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]
_Sizes = Annotated[tuple[_Count, ...], msgspec.Meta(max_length=MAX_PLANES)]

_HEADER = msgspec.msgpack.Decoder(_Header)
_NAMES = {name: tuple(field for field in kind.__struct_fields__ if field != "tensor") for name, kind in KINDS.items()}
_FIELDS = {kind: _without_tensor(kind) for kind in KINDS.values()}
_Order = Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_DIMENSIONS)]


class _Other(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    codec: str
    dtype: Dtype
    shape: _Shape
    sizes: _Sizes
    order: _Order = ()


class _Described(_Other, array_like=True, forbid_unknown_fields=True):
    others: Annotated[tuple[_Other, ...], msgspec.Meta(max_length=MAX_TENSORS - 1)] = ()


_TENSOR = msgspec.msgpack.Decoder(_Described)
_WITH_TENSOR = {kind for kind in KINDS.values() if kind.__struct_fields__[-1:] == ("tensor",)}
"""There it is the last field."""
