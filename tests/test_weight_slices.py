"""Weights as slices: every byte travels once, small tensors together, and what does not fit is refused whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mpsl import wire
from mpsl.errors import WireError
from mpsl.machines.arrivals import Arrivals
from mpsl.messages import Slice
from mpsl.nn import weights
from mpsl.nn.models import build
from mpsl.nn.weights import MAX_TOGETHER, RAW, SHARED_SLICE_DTYPE, Arrays

CHUNK_BYTES = 4096


def sliced(arrays: Arrays, codecs: list[str] | None = None, chunk_bytes: int = CHUNK_BYTES) -> list[Slice]:
    return list(weights.slices(arrays, "update", 3, 1, 0, chunk_bytes, codecs))


def travelled(message: Slice) -> Slice:
    """The message as its receiver sees it."""
    decoded = wire.decode(b"".join(wire.encode(message)))
    assert isinstance(decoded, Slice)
    return decoded


def part(*sizes: int, dtype: type = np.float32) -> list[np.ndarray]:
    chance = np.random.default_rng(4)
    return [(1000 * chance.standard_normal(size)).astype(dtype) for size in sizes]


TENSOR = st.tuples(st.integers(0, 3000), st.sampled_from([np.float32, np.int64, np.uint8]), st.booleans())


@settings(deadline=None, max_examples=60)
@given(st.lists(TENSOR, max_size=80), st.integers(2048, 20_000))
def test_every_tensor_arrives_as_it_is(tensors: list[tuple[int, type, bool]], chunk_bytes: int) -> None:
    arrays = [part(size, dtype=dtype)[0] for size, dtype, _ in tensors]
    codecs = ["int8" if coded and dtype is np.float32 else RAW for _, dtype, coded in tensors]
    received = [np.zeros_like(array) for array in arrays]
    arrivals = Arrivals()
    for message in sliced(arrays, codecs, chunk_bytes):
        buffers = wire.encode(message)
        assert sum(memoryview(buffer).nbytes for buffer in buffers) <= chunk_bytes
        weights.write(received, travelled(message), codecs)
        arrivals.add(message)
    assert arrivals.bytes == weights.coded_bytes(arrays, codecs, chunk_bytes)
    for ours, theirs, codec in zip(received, arrays, codecs, strict=True):
        if codec == RAW:
            assert np.array_equal(ours, theirs)
        else:
            np.testing.assert_allclose(ours, theirs, atol=np.abs(theirs).max(initial=0) / 100)


def test_small_tensors_share_a_slice_and_large_ones_have_their_own() -> None:
    arrays = [*part(10, 20), *part(1, dtype=np.int64), *part(4000, 5)]
    found = [(m.index, m.offset, m.tensor.dtype, len(m.tensor.planes)) for m in sliced(arrays)]
    assert found == [
        (0, 0, SHARED_SLICE_DTYPE, 3),
        (3, 0, "float32", 1),
        (3, 768, "float32", 1),
        (3, 1536, "float32", 1),
        (3, 2304, "float32", 1),
        (3, 3072, "float32", 1),
        (3, 3840, "float32", 1),
        (4, 0, "float32", 1),
    ]


def test_a_slice_has_no_more_tensors_than_its_header_has_room_for() -> None:
    arrays = part(*[1] * 100)
    assert [len(m.tensor.planes) for m in sliced(arrays, chunk_bytes=1 << 20)] == [MAX_TOGETHER] * 3 + [4]


def test_slices_are_views() -> None:
    arrays = part(10, 2000, 10, 10)
    for message in sliced(arrays):
        for plane in message.tensor.planes:
            seen = np.frombuffer(plane, np.uint8)
            assert any(np.shares_memory(seen, array) for array in arrays)


def test_a_model_of_many_small_tensors_takes_few_messages() -> None:
    model = build("resnet18", num_classes=10, image_size=32)
    arrays = weights.arrays_of(model.state_dict().items())
    chunk_bytes = 512 * 1024
    least = weights.weights_bytes(arrays) / chunk_bytes
    assert len(arrays) == 122
    assert len(sliced(arrays, chunk_bytes=chunk_bytes)) < least + 35


def gathered() -> tuple[list[np.ndarray], Slice]:
    arrays = part(10, 20, 30)
    (message,) = sliced(arrays)
    return [np.zeros_like(array) for array in arrays], message


@pytest.mark.parametrize(
    ("index", "offset", "why"),
    [
        (1, 0, "slice of 3 tensors from 1; the part has not as many in raw"),
        (3, 0, "slice of tensor 3; the part has 3"),
        (-1, 0, "slice of tensor -1; the part has 3"),
        (0, 4, "slice of 3 tensors of uint8 at 4"),
    ],
)
def test_a_slice_that_does_not_fit_is_refused(index: int, offset: int, why: str) -> None:
    arrays, message = gathered()
    with pytest.raises(WireError, match=why):
        weights.write(arrays, replace(message, index=index, offset=offset))
    assert not any(array.any() for array in arrays)


def test_no_tensor_is_touched_where_one_of_them_has_another_size() -> None:
    arrays, message = gathered()
    planes = (*message.tensor.planes[:2], message.tensor.planes[2][:-4])
    with pytest.raises(WireError, match="116 bytes for one of 120"):
        weights.write(arrays, replace(message, tensor=replace(message.tensor, planes=planes)))
    assert not any(array.any() for array in arrays)


def test_several_tensors_are_refused_where_one_of_them_is_coded() -> None:
    arrays, message = gathered()
    with pytest.raises(WireError, match="not as many in raw"):
        weights.write(arrays, message, [RAW, "int8", RAW])
    with pytest.raises(WireError, match="tensors of float32"):
        weights.write(arrays, replace(message, tensor=replace(message.tensor, dtype="float32")))


def test_tensors_of_torch_come_back_through_slices() -> None:
    source, target = (build("digits-cnn") for _ in range(2))
    torch.nn.init.normal_(next(source.parameters()))
    received = weights.arrays_of(target.state_dict().items())
    for message in sliced(weights.arrays_of(source.state_dict().items())):
        weights.write(received, travelled(message))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
