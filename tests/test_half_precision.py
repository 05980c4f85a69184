"""torch's conversions to and from halves, against the codecs that say what the bytes are."""

import numpy as np
import pytest
import torch

from mpsl.codecs import parse
from mpsl.errors import WireError
from mpsl.nn.half_precision import decode_half, encode_half
from mpsl.nn.tensors import decode, encode

HALVES = ("fp16", "bf16")


def awkward() -> torch.Tensor:
    """Finite floats of every exponent that a half can hold, close to the middles between halves, of both signs."""
    chance = np.random.default_rng(7)
    powers = 2.0 ** np.arange(-40, 16)
    steps = 1 + np.arange(4096) / 4096
    values = np.outer(powers, steps).astype(np.float32).reshape(-1)
    nudged = np.nextafter(values, chance.choice([-np.inf, np.inf], values.size).astype(np.float32))
    whole = np.concatenate([values, -values, nudged, [0.0, -0.0, 65504.0, -65504.0]])
    return torch.from_numpy(whole.clip(-65504, 65504).astype(np.float32))


@pytest.mark.parametrize("codec", HALVES)
def test_encodes_to_the_bytes_of_the_codec(codec: str) -> None:
    tensor = awkward()
    mine, theirs = encode_half(tensor, codec), parse(codec).encode(tensor.numpy())
    assert mine is not None
    assert (mine.codec, mine.dtype, mine.shape) == (theirs.codec, theirs.dtype, theirs.shape)
    assert [bytes(plane) for plane in mine.planes] == [bytes(plane) for plane in theirs.planes]


@pytest.mark.parametrize("codec", HALVES)
def test_decodes_every_half_to_the_value_of_the_codec(codec: str) -> None:
    plane = np.arange(1 << 16, dtype="<u2").tobytes()
    mine, theirs = decode_half((256, 256), (plane,), codec), parse(codec).decode((256, 256), (plane,))
    assert mine is not None
    mine_bits, bits = mine.numpy().view(np.uint32), theirs.view(np.uint32)
    nan = np.isnan(theirs)
    assert np.array_equal(np.isnan(mine.numpy()), nan)
    assert np.array_equal(mine_bits[~nan], bits[~nan])


@pytest.mark.parametrize("codec", HALVES)
@pytest.mark.parametrize("value", [3.4e38, -3.4e38, float("inf"), float("-inf"), float("nan")])
def test_what_torch_rounds_otherwise_is_left_to_the_codec(codec: str, value: float) -> None:
    tensor = torch.tensor([1.0, value, -2.0])
    assert encode_half(tensor, codec) is None
    encoded = encode(tensor, codec)
    assert [bytes(plane) for plane in encoded.planes] == [
        bytes(plane) for plane in parse(codec).encode(tensor.numpy()).planes
    ]


@pytest.mark.parametrize("codec", HALVES)
def test_a_tensor_that_is_not_contiguous_and_an_empty_one(codec: str) -> None:
    turned = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(decode(encode(turned, codec), codec, 1000), turned)
    empty = torch.empty(0, 4)
    assert decode(encode(empty, codec), codec, 1000).shape == (0, 4)


@pytest.mark.parametrize("codec", HALVES)
def test_planes_of_a_wrong_length_are_refused(codec: str) -> None:
    with pytest.raises(WireError, match="needs"):
        decode_half((4,), (bytes(6),), codec)


def test_other_codecs_are_not_its_business() -> None:
    assert encode_half(torch.ones(4), "fp32") is None
    assert decode_half((4,), (bytes(16),), "fp32") is None


@pytest.mark.parametrize("codec", ["fp32", "fp16", "int4", "huffman:2", "topk:0.001"])
def test_what_would_take_more_memory_than_any_tensor_of_the_run_is_refused(codec: str) -> None:
    tensor = encode(torch.zeros(64, 1000), codec)
    assert decode(tensor, codec, 256_000).shape == (64, 1000)
    with pytest.raises(WireError, match="larger than any"):
        decode(tensor, codec, 255_999)
