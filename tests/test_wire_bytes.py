"""What a codec says of its own bytes, against what it really writes, for the tensors that a training makes."""

from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpsl.codecs import codecs, parse
from mpsl.codecs.codec import Floats
from mpsl.nn.models import build, input_shape

SPECS = [
    "fp32", "fp16", "bf16", "int8", "int4", *(f"{name}:{bits}" for name in ("affine", "huffman") for bits in (2, 3, 4)),
    "topk:0.002", "topk:0.01", "topk:0.05", "topk:0.1", "topk:0.2", "topk:0.5", "topk:1",
]  # fmt: skip
SHAPES = [(), (0,), (1,), (7,), (3, 129), (5, 3, 11, 13), (2, 0, 3)]
HIGH = 1.04
"""How far above the bytes of values that compress badly an estimate may lie, tables of codes aside."""
LOW = 0.98
"""And how far below: gradients of vgg11 take 1 % more than normally distributed values."""
FEW_BYTES = 128


@cache
def trained(model: str) -> dict[str, Floats]:
    """Activations and gradients in the middle of a model after some steps."""
    torch.manual_seed(0)
    whole = build(model).train()
    data = torch.rand(8, *input_shape(model))
    labels = torch.randint(10, (8,))
    optimizer = torch.optim.SGD(whole.parameters(), 0.01)
    found = {}
    for _ in range(3):
        value, outputs = data, []
        for block in whole:
            value = block(value)
            value.retain_grad()
            outputs.append(value)
        optimizer.zero_grad()
        functional.cross_entropy(value, labels).backward()
        optimizer.step()
        middle = outputs[len(outputs) // 3]
        assert middle.grad is not None
        found = {"activation": middle.detach().contiguous().numpy(), "gradient": middle.grad.contiguous().numpy()}
    return found


def typical() -> dict[str, Floats]:
    chance = np.random.default_rng(0)
    normal = chance.standard_normal((32, 64, 8, 8), dtype=np.float32)
    found = {"normal": normal, "after a ReLU": np.maximum(normal, 0)}
    for model in ("digits-cnn", "resnet18"):
        found |= {f"{model} {kind}": values for kind, values in trained(model).items()}
    return found


TYPICAL = typical()


def test_every_codec_is_looked_at() -> None:
    assert {spec.partition(":")[0] for spec in SPECS} == set(codecs.names())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_where_sizes_are_fixed_the_prediction_is_exact(spec: str, shape: tuple[int, ...]) -> None:
    codec, values = parse(spec), np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    written = codec.encode(np.asarray(values, np.float32)).nbytes
    assert codec.wire_bytes(shape) <= codec.max_bytes(shape)
    if codec.sizes(shape) is not None:
        assert codec.wire_bytes(shape) == written
    assert written <= codec.max_bytes(shape)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", TYPICAL)
def test_an_estimate_is_not_below_what_training_writes(spec: str, name: str) -> None:
    codec, values = parse(spec), TYPICAL[name]
    assert codec.wire_bytes(values.shape) >= LOW * codec.encode(values).nbytes


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["normal", "resnet18 gradient", "digits-cnn gradient"])
def test_an_estimate_is_close_for_what_compresses_badly(spec: str, name: str) -> None:
    codec, values = parse(spec), TYPICAL[name]
    high = 1.10 if spec in ("topk:0.01", "topk:0.002") else 1.08 if spec.startswith("huffman") else HIGH
    assert codec.wire_bytes(values.shape) <= high * codec.encode(values).nbytes + FEW_BYTES


def test_top_k_takes_24_bits_for_each_kept_value_where_a_gap_fits_a_byte() -> None:
    """The planner once counted 64 bits for a value and its index: 2.7 and 3 times what is sent."""
    values = TYPICAL["normal"]
    assert parse("topk:0.05").wire_bytes(values.shape) == pytest.approx(0.05 * values.size * 3, rel=0.03)
    assert parse("topk:0.2").wire_bytes(values.shape) == pytest.approx(
        0.2 * values.size * 2 + values.size / 8, rel=1e-3
    )
