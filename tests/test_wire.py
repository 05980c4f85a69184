"""Messages, chunks and acks as bytes: they come back as they were, their bytes are frozen, and nothing foreign gets in.

A change of the files in tests/golden/ means that older processes no longer understand us: raise mpsl.PROTOCOL with it.
"""

import tracemalloc
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsl import PROTOCOL, wire
from mpsl.errors import WireError
from mpsl.link import chunk
from mpsl.link.chunk import Ack, ChunkHeader
from mpsl.messages import KINDS, Activation, Close, Fault, Message, Tensor, Ticket

GOLDEN = Path(__file__).parent / "golden"
CLASSES = {"truncated", "header", "kind", "fields", "tensor", "foreign", "protocol", "chunk", "ack", "type"}
"""What the text of a WireError from these bytes may begin with: the keys under which dropped messages are counted."""

counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=16)  # at most four bytes a character, and 64 bytes a field


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """Tensors as far as the wire looks at them: planes of any length, whatever the codec."""
    planes = draw(st.lists(st.binary(max_size=200), max_size=4))
    shape = tuple(draw(st.lists(st.integers(0, 2**40 - 1), max_size=wire.MAX_DIMENSIONS)))
    return Tensor(draw(texts), draw(st.sampled_from(sorted(wire.DTYPES))), shape, tuple(map(memoryview, planes)))


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Anything that a field of this type can hold."""
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if kind is Ticket:
        return st.builds(Ticket, *(values(field.type) for field in msgspec.structs.fields(Ticket)))
    known = {int: counts, str: texts, bool: st.booleans(), float: st.floats(allow_nan=False), Tensor: tensors()}
    return known[kind]


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})


@st.composite
def chunks(draw: st.DrawFn) -> tuple[ChunkHeader, bytes]:
    """A chunk that can be: all but the last of a message have the same length."""
    total = draw(st.integers(1, 50))
    index = draw(st.integers(0, total - 1))
    step = draw(st.integers(1, 300))
    size = (total - 1) * step + draw(st.integers(1, step))
    numbers = draw(st.tuples(counts, counts, counts, counts))
    length = min(step, size - index * step)
    return ChunkHeader(draw(texts), *numbers, index, total, index * step, size, length), bytes(length)


@st.composite
def acks(draw: st.DrawFn) -> Ack:
    """An ack that can be: gaps rise and lie within what it covers."""
    ends = sorted(draw(st.sets(counts, min_size=2, max_size=2 * chunk.MAX_GAPS)))
    gaps = tuple(zip(ends[0::2], ends[1::2], strict=False))
    numbers = draw(st.tuples(counts, counts))
    return Ack(draw(texts), numbers[0], draw(texts), draw(texts), numbers[1], ends[0], ends[-1], gaps)


def example_of(kind: Any, name: str) -> Any:
    """A plain value for a golden file: telling apart every field, so that swapped ones show."""
    number = sum(name.encode())
    if typing.get_origin(kind) is typing.Literal:
        return typing.get_args(kind)[-1]
    if kind is Ticket:
        return Ticket(term=2, round=3, device="dev-1", attempt=4, epoch=5, batch=6, micro=7, micros=8)
    if kind is Tensor:
        return Tensor("int8", "float32", (2, 35), (memoryview(bytes(range(70))), memoryview(b"\x00\x00\x80\x3f")))
    return {int: number, str: f"a {name}", bool: True, float: number / 4}[kind]


def golden_examples() -> dict[str, bytes]:
    """The bytes of one message of every kind, of a chunk and of an ack, by the name of their file."""
    found = {
        name: b"".join(wire.encode(kind(**{f.name: example_of(f.type, f.name) for f in msgspec.structs.fields(kind)})))
        for name, kind in KINDS.items()
    }
    header = ChunkHeader("0a1b2c3d", 1, 2, 300, 4, 1, 3, 60, 150, 70)
    found["chunk"] = bytes(chunk.encode_chunk(header, [bytes(range(70))]))
    found["ack"] = chunk.encode_ack(Ack("4e5f6a7b", 1, "0a1b2c3d", "fwd", 2, 300, 310, ((300, 302), (305, 306))))
    return found


def refused(decode: Callable[[bytes], object], data: bytes) -> str:
    """The class of the WireError that decoding raises; any other exception fails the test."""
    with pytest.raises(WireError) as caught:
        decode(data)
    return str(caught.value).partition(":")[0]


def harmless(decode: Callable[[bytes], object], data: bytes) -> None:
    """Decoding gives something or raises a WireError of a known class; any other exception fails the test."""
    found = ""
    try:
        decode(data)
    except WireError as error:
        found = str(error)
    assert not found or found.partition(":")[0] in CLASSES, found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_back_as_it_was(kind: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(messages(KINDS[kind]))
    def comes_back(message: Message) -> None:
        buffers = wire.encode(message)
        assert all(len(buffer) for buffer in buffers), "an empty one would be a call of the system for nothing"
        decoded = wire.decode(b"".join(buffers))
        assert decoded == message
        tensor = getattr(message, "tensor", None)
        if tensor is not None:
            assert [bytes(plane) for plane in decoded.tensor.planes] == [bytes(plane) for plane in tensor.planes]  # type: ignore[attr-defined]

    comes_back()


@settings(deadline=None)
@given(chunks())
def test_a_chunk_comes_back_as_it_was(made: tuple[ChunkHeader, bytes]) -> None:
    header, body = made
    encoded = chunk.encode_chunk(header, [body[:7], body[7:]])
    assert len(encoded) == len(bytes(encoded))
    decoded = chunk.decode(bytes(encoded))
    assert isinstance(decoded, tuple)
    assert decoded[0] == header
    assert decoded[1] == body


@settings(deadline=None)
@given(acks())
def test_an_ack_comes_back_as_it_was(ack: Ack) -> None:
    assert chunk.decode(chunk.encode_ack(ack)) == ack


@settings(deadline=None)
@given(tensors())
def test_planes_are_aligned_and_not_copied(tensor: Tensor) -> None:
    message = Activation(Ticket(1, 1, "d", 1, 0, 0, 0, 1), tensor)
    received = b"".join(wire.encode(message))
    decoded = wire.decode(received)
    assert isinstance(decoded, Activation)
    whole = memoryview(received)
    _, position = wire.header_of(whole)
    for plane in decoded.tensor.planes:
        assert plane.obj is received
        assert position % wire.ALIGNMENT == 0
        assert plane == whole[position : position + plane.nbytes]
        position += plane.nbytes + wire.padding(plane.nbytes)


@pytest.mark.parametrize("name", sorted(golden_examples()))
def test_bytes_are_frozen(name: str) -> None:
    frozen = bytes.fromhex((GOLDEN / f"{name}.hex").read_text())
    message = f"the bytes of {name!r} changed: raise PROTOCOL (now {PROTOCOL}) and write tests/golden anew"
    assert golden_examples()[name] == frozen, message
    assert isinstance(chunk.decode(frozen), tuple | Ack) if name in ("chunk", "ack") else wire.decode(frozen)


def test_every_golden_file_has_its_kind() -> None:
    assert {path.stem for path in GOLDEN.glob("*.hex")} == set(golden_examples())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_foreign_bytes_raise_wire_errors_only(data: bytes) -> None:
    harmless(wire.decode, data)
    harmless(chunk.decode, data)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "k": st.sampled_from(sorted(KINDS)) | plain,
            "f": st.dictionaries(st.sampled_from(["ticket", "round", "device", "reason", "purpose", "version"]), plain)
            | plain,
            "t": st.tuples(st.text(max_size=4), st.sampled_from(sorted(wire.DTYPES)) | plain, plain, plain) | plain,
            "x": plain,
        },
    )
    | plain,
    st.binary(max_size=200),
)
def test_headers_of_any_form_raise_wire_errors_only(header: Any, body: bytes) -> None:
    packed = msgpack.packb(header)
    start = len(packed).to_bytes(4, "little") + packed
    harmless(wire.decode, start + body)
    harmless(wire.decode, start + bytes(wire.padding(len(start))) + body)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([chunk.CHUNK, chunk.ACK]), st.lists(plain, min_size=7, max_size=10) | plain, st.binary(max_size=99)
)
def test_link_headers_of_any_form_raise_wire_errors_only(kind: int, fields: Any, body: bytes) -> None:
    packed = msgpack.packb(fields)
    start = b"MPSL" + bytes([PROTOCOL, kind]) + len(packed).to_bytes(2, "little") + packed
    harmless(chunk.decode, start + bytes(wire.padding(len(start))) + body)


@pytest.mark.parametrize("name", sorted(golden_examples()))
def test_truncated_bytes_are_refused(name: str) -> None:
    whole = golden_examples()[name]
    decode = chunk.decode if name in ("chunk", "ack") else wire.decode
    # What ends in the zeros that fill a header up to 64 bytes is whole all the same.
    needed = len(whole.rstrip(b"\0")) if name == "ack" else len(whole)
    for length in range(needed):
        assert refused(decode, whole[:length]) in CLASSES


@pytest.mark.parametrize("name", sorted(golden_examples()))
def test_flipped_bits_raise_wire_errors_only(name: str) -> None:
    whole = golden_examples()[name]
    decode = chunk.decode if name in ("chunk", "ack") else wire.decode
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        harmless(decode, bytes(flipped))


@pytest.mark.parametrize("name", ["activation", "slice", "probe", "commit", "chunk"])
def test_oversized_bytes_are_refused(name: str) -> None:
    decode = chunk.decode if name == "chunk" else wire.decode
    assert refused(decode, golden_examples()[name] + bytes(64)) in ("tensor", "truncated")


def test_a_protocol_of_another_version_is_refused() -> None:
    payload = bytearray(golden_examples()["chunk"])
    payload[4] = PROTOCOL + 1
    assert refused(chunk.decode, bytes(payload)) == "protocol"


def test_announced_sizes_allocate_nothing() -> None:
    """Headers that announce exabytes are refused before anything of that size is made."""
    huge = 2**40 - 1
    activation = msgpack.packb(
        {
            "k": "activation",
            "f": msgspec.structs.asdict(example_of(Ticket, "")),
            "t": ["fp32", "float32", [huge] * 8, [huge]],
        }
    )
    arrays = b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        for header in (activation, *arrays, b"\x91" * 9000):
            assert refused(wire.decode, len(header).to_bytes(4, "little") + header) in CLASSES
            assert refused(wire.decode, b"\xff\xff\xff\xff" + header) == "header"
        for header in arrays:
            payload = b"MPSL" + bytes([PROTOCOL, chunk.CHUNK]) + len(header).to_bytes(2, "little") + header
            assert refused(chunk.decode, payload) == "header"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_long_reason_is_cut_not_refused() -> None:
    """A reader refuses long texts, so whoever reports a fault must be able to say anything."""
    reason = "é" * 20_000 + "\udcff"
    decoded = wire.decode(b"".join(wire.encode(Fault(reason))))
    assert decoded == Fault(reason[: wire.MAX_TEXT])
    assert wire.decode(b"".join(wire.encode(Fault("shard-\udcff.npz")))) == Fault("shard-?.npz")


def test_types_are_not_coerced() -> None:
    for fields in (
        {"round": "1", "devices": 2, "weight": 3},
        {"round": 1.0, "devices": 2, "weight": 3},
        {"round": 1, "devices": 2, "weight": 3, "more": 4},
        {"round": 1},
    ):
        packed = msgpack.packb({"k": "close", "f": fields})
        assert refused(wire.decode, len(packed).to_bytes(4, "little") + packed) == "fields"
    packed = msgpack.packb({"k": "close", "f": {"round": 1, "devices": 2, "weight": 3}})
    assert wire.decode(len(packed).to_bytes(4, "little") + packed) == Close(1, 2, 3, merge=False)


@pytest.mark.parametrize(
    ("index", "total", "offset", "size", "length"),
    [
        (0, 2, 1, 100, 50), (1, 2, 0, 100, 100), (1, 3, 50, 100, 50), (0, 1, 0, 10, 9), (0, 2, 0, 100, 100),
        (1, 2, 50, 100, 51), (1, 2, 50, 100, 49), (2, 2, 50, 100, 50), (0, 1, 0, 0, 0), (1, 3, 50, 100, 0),
        (1, 200, 5, 100, 5),
    ],
)  # fmt: skip
def test_chunks_that_do_not_fit_their_message_are_refused(
    index: int, total: int, offset: int, size: int, length: int
) -> None:
    with pytest.raises(WireError, match=r"^chunk: "):
        ChunkHeader("boot", 1, 1, 1, 1, index, total, offset, size, length).checked()


def test_a_body_of_another_length_than_announced_is_refused() -> None:
    header = ChunkHeader("boot", 1, 1, 1, 1, 1, 3, 50, 100, 20)
    for length in (0, 19, 21):
        assert refused(chunk.decode, bytes(chunk.encode_chunk(header, [bytes(length)]))) == "truncated"


def test_headers_that_nest_without_end_are_refused() -> None:
    """Where a number belongs, and behind the last field, which nobody would read."""
    deep = b"\x91" * 4000
    fields = b"\xa4boot" + b"\x01" * 9
    for header in (b"\x9a\xa4boot" + deep, b"\x9b" + fields + deep):
        payload = b"MPSL" + bytes([PROTOCOL, chunk.CHUNK]) + len(header).to_bytes(2, "little") + header
        assert refused(chunk.decode, payload) == "header"
    for header in (b"\x82\xa1k\xa6commit\xa1f\x81\xa5round" + deep, b"\x83\xa1k\xa6commit\xa1f\x80\xa1x" + deep):
        assert refused(wire.decode, len(header).to_bytes(4, "little") + header) in CLASSES


@pytest.mark.parametrize("kind", [*KINDS.values(), Ticket, Tensor, chunk.ChunkHeader])
def test_nothing_of_a_message_counts_for_the_garbage_collector(kind: type[msgspec.Struct]) -> None:
    assert not kind.__struct_config__.gc


def test_a_header_over_the_limit_is_refused_before_it_is_read() -> None:
    length = wire.MAX_HEADER + 1
    with pytest.raises(WireError, match=f"header: {length} bytes; at most {wire.MAX_HEADER}"):
        wire.decode(length.to_bytes(4, "little") + bytes(length))


def test_a_plane_that_is_longer_than_what_arrived_is_truncated() -> None:
    message = golden_examples()["activation"]
    assert refused(wire.decode, message[:-1]) == "truncated"
