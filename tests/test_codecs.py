"""Each codec keeps the bound that it states, whatever shape and values; its bytes are frozen; bad bytes are refused."""

import struct
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from mpsl.codecs import Codec, codecs, parse
from mpsl.codecs.codec import Floats
from mpsl.codecs.int4 import Integer4
from mpsl.codecs.int8 import Integer8
from mpsl.codecs.tiles import TILE
from mpsl.codecs.topk import TopK
from mpsl.errors import UsageError, WireError
from mpsl.messages import Tensor

SPECS = ["fp32", "fp16", "bf16", "int8", "int4", "topk:0.001", "topk:0.05", "topk:0.3", "topk:1"]
HALF_MAX, BF16_MAX = 65504.0, float.fromhex("0x1.fep127")

floats = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.floats(-4, 4, width=32)
shapes = arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9)
tensors = arrays_of.arrays(np.float32, shapes, elements=floats, fill=st.sampled_from([0.0, 1.5]).map(np.float32))


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def received(encoded: Tensor) -> list[bytes]:
    return [bytes(plane) for plane in encoded.planes]


def there_and_back(codec: Codec, array: Floats) -> Floats:
    encoded = codec.encode(array)
    assert (encoded.codec, encoded.dtype, encoded.shape) == (codec.spec, "float32", array.shape)
    assert all(plane.format == "B" and plane.ndim == 1 for plane in encoded.planes)
    assert encoded.nbytes <= codec.max_bytes(array.shape)
    if (sizes := codec.sizes(array.shape)) is not None:
        assert sizes == tuple(plane.nbytes for plane in encoded.planes)
    decoded = codec.decode(array.shape, received(encoded))
    assert decoded.dtype == np.float32
    assert decoded.shape == array.shape
    out = np.full(array.shape, np.nan, np.float32)
    assert codec.decode(array.shape, encoded.planes, out) is out
    assert out.tobytes() == decoded.tobytes()
    return decoded


def long_values(size: int, seed: int = 7) -> Floats:
    """Magnitudes from the subnormal to the huge, both signs, and many zeros: over several tiles, with a remainder."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal(size) * 2.0 ** generator.integers(-140, 100, size)
    values[generator.random(size) < 0.3] = 0
    return values.astype(np.float32)


def double(array: Floats) -> np.ndarray:
    return array.astype(np.float64)


def check_half(x: Floats, y: Floats) -> None:
    x, y = np.clip(double(x), -HALF_MAX, HALF_MAX), double(y)
    assert (np.abs(x - y) <= np.maximum(np.abs(x) * 2.0**-11, 2.0**-25)).all()


def check_bf16(x: Floats, y: Floats) -> None:
    x, y = double(x), double(y)
    assert (np.abs(x - y) <= np.maximum(np.abs(x) * 2.0**-8, 2.0**-134)).all()


def check_grouped(codec: Integer8 | Integer4, x: Floats, y: Floats) -> None:
    x, y = double(x).reshape(-1), double(y).reshape(-1)
    for start in range(0, x.size, codec.group):
        ours, theirs = x[start : start + codec.group], y[start : start + codec.group]
        peak = np.abs(ours).max()
        zeros = codec.levels * 2.0**-125
        bound = peak / codec.levels * (0.5 + 2.0**-15) if peak >= zeros else zeros
        assert (np.abs(ours - theirs) <= bound).all()
        assert (theirs[ours == 0] == 0).all()


def check_topk(codec: TopK, x: Floats, y: Floats) -> None:
    x, y = double(x).reshape(-1), double(y).reshape(-1)
    if not x.size:
        return
    kept = codec.kept(x.size)
    assert np.count_nonzero(y) <= kept
    loss, whole = ((x - y) ** 2).sum(), (x**2).sum()
    assert loss <= (1 - kept / x.size * (1 - 2.0**-16)) * whole * (1 + 1e-12) + x.size * 2.0**-260
    left_out = np.abs(x[y == 0]).max(initial=0)
    assert left_out <= np.abs(x[y != 0]).min(initial=np.inf) + 2.0**-133


def check_bound(codec: Codec, x: Floats) -> None:
    y = there_and_back(codec, x)
    match codec:
        case Integer8() | Integer4():
            check_grouped(codec, x, y)
        case TopK():
            check_topk(codec, x, y)
        case _:
            checks = {"fp32": np.testing.assert_array_equal, "fp16": check_half, "bf16": check_bf16}
            checks[codec.spec](x, y)


@pytest.mark.parametrize("spec", SPECS)
@given(x=tensors)
def test_bound_holds_for_any_shape(spec: str, x: Floats) -> None:
    check_bound(parse(spec), x)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("size", [1, 127, 128, 129, 257, TILE, TILE + 1, 2 * TILE + 300])
def test_bound_holds_over_tiles_and_groups(spec: str, size: int) -> None:
    check_bound(parse(spec), long_values(size))
    check_bound(parse(spec), np.random.default_rng(size).standard_normal(size, dtype=np.float32))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.1415927, 1e-45, -1.1754944e-38, 6e-8, 65519.0, 3.4028235e38])
def test_bound_holds_for_constants(spec: str, value: float) -> None:
    check_bound(parse(spec), np.full((3, 67), value, np.float32))


def test_fp32_is_exact_and_copies_nothing() -> None:
    x = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    encoded = parse("fp32").encode(x)
    assert np.shares_memory(np.asarray(encoded.planes[0]), x)
    buffer = received(encoded)[0]
    decoded = parse("fp32").decode((2, 2), [buffer])
    assert np.shares_memory(decoded, np.frombuffer(buffer, np.uint8))
    assert decoded.tobytes() == x.tobytes()
    assert [spec for spec in SPECS if parse(spec).exact] == ["fp32"]


def test_every_half_survives() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        x = halves.astype(np.float32)
    np.testing.assert_array_equal(there_and_back(parse("fp16"), x), x)


@pytest.mark.parametrize("exponent", range(-27, 16))
def test_fp16_rounds_as_the_standard_says(exponent: int) -> None:
    """Compared with numpy's conversion: ties and their neighbours in every binade, subnormal ones included."""
    steps = np.arange(2048, 4097, dtype=np.float64) / 4096 * 2.0 ** (exponent + 1)
    ties = steps.astype(np.float32)
    near = np.concatenate([np.nextafter(ties, to) for to in (ties, np.float32(0), np.float32(9e9))])
    x = np.concatenate([near, -near])
    x = x[np.abs(x) <= HALF_MAX].astype(np.float32)
    assert received(parse("fp16").encode(x))[0] == x.astype("<f2").tobytes()


def test_bf16_rounds_ties_to_even() -> None:
    x = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000], np.uint32).view(np.float32)
    assert np.frombuffer(received(parse("bf16").encode(x))[0], "<u2").tolist() == [
        0x3F80,
        0x3F82,
        0x3F81,
        0x3F80,
        0xBF82,
    ]


@pytest.mark.parametrize(("spec", "largest"), [("fp16", HALF_MAX), ("bf16", BF16_MAX)])
def test_beyond_the_range_finite_values_saturate_and_others_stay(spec: str, largest: float) -> None:
    strange = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000], np.uint32).view(np.float32)
    x = np.concatenate([np.array([3.4028235e38, -3.4028235e38, np.inf, -np.inf], np.float32), strange])
    y = there_and_back(parse(spec), x)
    assert y[:4].tolist() == [largest, -largest, np.inf, -np.inf]
    assert np.isnan(y[4:]).all()


@pytest.mark.parametrize("spec", ["int8", "int4", "topk:0.05", "topk:0.3"])
@pytest.mark.parametrize("strange", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 300, TILE + 70])
def test_integers_and_topk_refuse_what_is_not_finite(spec: str, strange: float, place: int) -> None:
    x = np.ones(TILE + 71, np.float32)
    x[place] = strange
    with pytest.raises(UsageError, match=r"NaN or infinity.*diverged.*bf16 or fp32"):
        parse(spec).encode(x)


@pytest.mark.parametrize("spec", ["affine:2", "affine:3", "affine:4", "huffman:2", "huffman:3", "huffman:4"])
@pytest.mark.parametrize("values", [[3.4028234e38, 3.3e38], [-1e38, 1e38], [-3.4028234e38, -3.4e38]])
def test_affine_refuses_what_its_own_decoder_would_not_take(spec: str, values: list[float]) -> None:
    with pytest.raises(UsageError, match=r"this tensor has larger ones.*diverged.*fp32"):
        parse(spec).encode(np.array(values, np.float32))


@pytest.mark.parametrize("size", [1, 3, 129, 255])
def test_whatever_the_last_byte_of_int4_is_it_is_decoded(size: int) -> None:
    codec = parse("int4")
    scales, packed = received(codec.encode(np.ones(size, np.float32)))
    for last in range(256):
        values = codec.decode((size,), [scales, packed[:-1] + bytes([last])])
        assert np.isfinite(values).all()


@pytest.mark.parametrize("spec", ["topk:0.25", "topk:0.02"])
def test_topk_keeps_the_first_of_equal_ones(spec: str) -> None:
    x = np.full(1000, -2, np.float32)
    x[500] = 3
    y = there_and_back(parse(spec), x)
    others = round(float(spec.partition(":")[2]) * 1000) - 1
    assert np.flatnonzero(y).tolist() == [*range(others), 500]


@pytest.mark.parametrize(("spec", "width"), [("topk:0.5", 0), ("topk:0.05", 1), ("topk:0.001", 2)])
def test_topk_positions_take_the_smallest_form(spec: str, width: int) -> None:
    values = 40000
    codec = parse(spec)
    x = np.zeros(values, np.float32)
    x[-1], x[17] = 1, -1  # gaps far longer than a word can say
    check_bound(codec, x)
    check_bound(codec, np.random.default_rng(1).standard_normal(values, dtype=np.float32))
    kept = round(float(spec.partition(":")[2]) * values)
    forms = {0: values // 8, 1: kept + values // 255, 2: 2 * (kept + values // 65535)}
    assert min(forms, key=lambda form: forms[form]) == width
    assert codec.max_bytes((values,)) == 2 * kept + forms[width]


GOLDEN = np.array([[0.0, 1.0, -2.5, 0.3333333], [1e-6, -7.0, 3.25, -0.0]], np.float32)


@pytest.mark.parametrize(
    ("spec", "planes"),
    [
        ("fp32", ["000000000000803f000020c0aaaaaa3ebd3786350000e0c00000504000000080"]),
        ("fp16", ["0000003c00c15535110000c780420080"]),
        ("bf16", ["0000803f20c0ab3e8635e0c050400080"]),
        ("int8", ["87c3613d", "0012d30600813b00"]),
        ("int4", ["0000803f", "100e9003"]),
        ("topk:0.5", ["803f20c0e0c05040", "66"]),
        ("topk:0.1", ["e0c0", "20"]),
    ],
)
def test_golden_bytes(spec: str, planes: list[str]) -> None:
    assert [plane.hex() for plane in received(parse(spec).encode(GOLDEN))] == planes


def test_golden_gaps_of_two_bytes() -> None:
    x = np.zeros(140000, np.float32)
    x[[3, 139999]] = [2, -1]
    assert [plane.hex() for plane in received(parse("topk:0.00001").encode(x))] == ["004080bf", "0300ffffffffdd22"]


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
@given(data=st.data())
@settings(max_examples=60)
def test_any_bytes_decode_or_raise_wire_error(spec: str, data: st.DataObject) -> None:
    codec = parse(spec)
    shape = data.draw(st.lists(st.integers(0, 60), max_size=3).map(tuple))
    good = received(codec.encode(np.ones(shape, np.float32)))
    lengths = [max(len(plane) + data.draw(st.sampled_from([0] * 6 + [1, -1])), 0) for plane in good]
    planes = [data.draw(st.binary(min_size=length, max_size=length)) for length in lengths]
    try:
        decoded = codec.decode(shape, planes)
    except WireError:
        return
    assert decoded.shape == shape
    if not spec.startswith(("fp", "bf")):
        assert np.isfinite(decoded).all()


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_lengths_and_numbers_of_planes_are_refused(spec: str) -> None:
    codec = parse(spec)
    planes = received(codec.encode(np.ones((5, 300), np.float32)))
    for wrong in (planes[:-1], [*planes, b""], [plane + b"\0\0\0\0" * 9 for plane in planes], [b""] * len(planes)):
        with pytest.raises(WireError, match="planes of"):
            codec.decode((5, 300), wrong)
    with pytest.raises(WireError, match="planes of"):
        codec.decode((5, 100000), planes)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(
    "shape", [(-1,), (2.0,), (True,), ("3",), (1 << 60,), (0, 1 << 60), (1,) * 40, (1 << 21, 1 << 21)]
)
def test_what_is_no_shape_is_refused_before_anything_is_allocated(spec: str, shape: tuple[int, ...]) -> None:
    for use in (parse(spec).sizes, parse(spec).max_bytes, lambda shape: parse(spec).decode(shape, [b"", b""])):
        with pytest.raises(WireError, match=r"shape|dimensions"):
            use(shape)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e38])
@pytest.mark.parametrize("spec", ["int8", "int4"])
def test_a_scale_that_cannot_be_is_refused(spec: str, scale: float) -> None:
    planes = received(parse(spec).encode(np.ones(400, np.float32)))
    planes[0] = planes[0][:-4] + struct.pack("<f", scale)
    with pytest.raises(WireError, match="scale"):
        parse(spec).decode((400,), planes)


@pytest.mark.parametrize("spec", ["int8", "int4"])
def test_an_integer_that_nobody_sends_stays_in_the_range(spec: str) -> None:
    codec = parse(spec)
    x = np.full(30, 3e38, np.float32)
    scales, packed = received(codec.encode(x))
    lowest = {"int8": b"\x80", "int4": b"\x88"}[spec] * len(packed)
    np.testing.assert_array_equal(codec.decode((30,), [scales, lowest]), -there_and_back(codec, x))


@pytest.mark.parametrize(
    ("spec", "positions", "says"),
    [
        ("topk:0.5", b"\x07\x00", "3 positions, not 5"),  # a bit too few
        ("topk:0.5", b"\x0f\x80", "beyond the 10"),  # bits behind the end
        ("topk:0.1", b"\x0a", "beyond the 10"),
        ("topk:0.1", b"\xff", "middle of a gap"),
    ],
)
def test_positions_that_cannot_be_are_refused(spec: str, positions: bytes, says: str) -> None:
    codec = parse(spec)
    values = received(codec.encode(np.ones(10, np.float32)))[0]
    with pytest.raises(WireError, match=says):
        codec.decode((10,), [values, positions])


def test_topk_values_that_cannot_be_are_refused() -> None:
    with pytest.raises(WireError, match="infinite or NaN"):
        parse("topk:0.1").decode((10,), [b"\x80\x7f", b"\x03"])


@pytest.mark.parametrize("spec", SPECS)
def test_wrong_arrays_are_a_programming_error(spec: str) -> None:
    codec = parse(spec)
    x = np.ones((4, 6), np.float32)
    for wrong in (x.astype(np.float64), x.T, x[:, ::2]):
        with pytest.raises(ValueError, match="contiguous float32"):
            codec.encode(wrong)
    planes = received(codec.encode(x))
    for out in (np.ones((6, 4), np.float32), np.ones((4, 6), np.float64), np.ones((6, 4), np.float32).T):
        with pytest.raises(ValueError, match="cannot decode shape"):
            codec.decode(x.shape, planes, out)


def test_encoding_does_not_change_the_array() -> None:
    for spec in SPECS:
        x = long_values(TILE + 77)
        x.flags.writeable = False
        before = x.tobytes()
        parse(spec).encode(x)
        assert x.tobytes() == before


def test_specs() -> None:
    assert codecs.names() == ["affine", "bf16", "fp16", "fp32", "huffman", "int4", "int8", "topk"]
    for spec in SPECS:
        assert parse(spec).spec == spec
        assert parse(spec) == parse(spec)
    assert parse("topk:0.05") != parse("topk:0.06")
    assert isinstance(kept := parse("topk:0.07"), TopK)
    assert [kept.kept(values) for values in (0, 1, 100, 101)] == [0, 1, 7, 8]  # exact: 0.07 * 100 > 7 in floats


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("fp61", "did you mean 'fp16'"),
        ("", "known: affine, bf16, fp16"),
        ("fp16:3", "takes no argument"),
        ("int8:", "takes no argument"),
        *[
            (spec, "above 0, at most 1")
            for spec in (
                "topk",
                *(f"topk:{fraction}" for fraction in ("", "0", "1.01", "-0.1", "nan", "1/2", "1e-3", "٣")),
            )
        ],
    ],
)
def test_bad_specs_say_what_to_write(spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse(spec)
