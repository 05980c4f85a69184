"""Coded tensors and weights in real runs: how many bytes they take, and that both ends hold the same."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fleet import Outcome, make_shards, run_fleet
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.torch import load_file

from broker.engines.engine import BrokerProcess
from device_agent.gradient_feedback import GradientFeedback
from device_agent.performer import DevicePerformer
from mpsl.codecs import parse
from mpsl.codecs.affine import GROUP
from mpsl.codecs.tiles import TILE
from mpsl.errors import UsageError, WireError
from mpsl.job import WireSection
from mpsl.machines.jobs import Result, TailProbe, WorkerJob
from mpsl.machines.session_id import SessionId
from mpsl.nn import weights
from mpsl.nn.edges import SINGLE
from mpsl.nn.tensors import Coding
from mpsl.nn.weights import RAW, WeightCodec
from orchestrator.device_parts import DeviceParts

MODEL = {"name": "digits-cnn", "args": {"dropout": 0.0}}
SAMPLES, DEVICES, BATCH = 32, 2, 16
UP = SAMPLES * DEVICES * (16 * 8 * 8 + 64) * 4
"""Bytes of a round's activations at the first cut and gradients at the last one as float32; down it is as many."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def train(broker: BrokerProcess, out: Path, test: int = 0, rounds: int = 2, cuts: Any = (1, 8), **wire: str) -> Outcome:
    job = {
        "run": {"name": "coded", "batch_size": BATCH, "rounds": rounds, "evaluate_every": rounds},
        "model": {**MODEL, "cuts": list(cuts)},
        "optimizer": {"name": "adam", "lr": 0.003},
        "fleet": {"devices": DEVICES, "nodes": max(0, len(cuts) - 1)},
        "wire": wire,
    }
    shards = make_shards([SAMPLES] * DEVICES, (1, 8, 8), 10, test=test)
    outcome = run_fleet(broker.url, job, shards, out, max(0, len(cuts) - 1))
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    return outcome


# Codec affine

finite = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-4, 4, width=32)
tensors = arrays_of.arrays(np.float32, arrays_of.array_shapes(min_dims=0, max_dims=3, max_side=20), elements=finite)


def check_affine(name: str, bits: int, x: np.ndarray) -> None:
    codec = parse(f"{name}:{bits}")
    encoded = codec.encode(x)
    codec.check(x.shape, encoded.planes)
    assert name == "huffman" or tuple(plane.nbytes for plane in encoded.planes) == codec.sizes(x.shape)
    y = codec.decode(x.shape, [bytes(plane) for plane in encoded.planes])
    assert y.shape == x.shape
    flat, back = x.reshape(-1).astype(np.float64), y.reshape(-1).astype(np.float64)
    for start in range(0, flat.size, GROUP):
        ours, theirs = flat[start : start + GROUP], back[start : start + GROUP]
        low, high = ours.min(), ours.max()
        width = high - (low - 2.0**-7 * abs(low))
        step = max(width / (2**bits - 1), 2.0**-126) * (1 + 2.0**-7)
        assert (np.abs(ours - theirs) <= step * (0.5 + 2.0**-15) + 2.0**-22 * max(abs(low), abs(high))).all()
        if low == 0:
            assert (theirs[ours == 0] == 0).all()


@pytest.mark.parametrize("name", ["affine", "huffman"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@given(x=tensors)
def test_affine_keeps_its_bound(name: str, bits: int, x: np.ndarray) -> None:
    check_affine(name, bits, x)


@pytest.mark.parametrize("name", ["affine", "huffman"])
@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 127, 128, 129, TILE - 1, TILE, TILE + 5])
def test_affine_over_groups_and_pieces(name: str, bits: int, size: int) -> None:
    normal = np.random.default_rng(size).standard_normal(size, dtype=np.float32)
    for x in (normal, np.maximum(normal, 0), np.full(size, -3.7, np.float32), normal * 1e-42):
        check_affine(name, bits, x)


def test_after_a_relu_affine_3_is_as_fine_as_int4_in_three_quarters_of_the_bytes() -> None:
    x = np.maximum(np.random.default_rng(0).standard_normal(40_000, dtype=np.float32), 0)
    errors, sizes = [], []
    for spec in ("int4", "affine:3"):
        encoded = parse(spec).encode(x)
        sizes.append(encoded.nbytes)
        errors.append(float(np.square(parse(spec).decode(x.shape, encoded.planes) - x).mean()))
    assert errors[1] < 1.02 * errors[0]
    assert sizes[1] < 0.77 * sizes[0]
    assert x.nbytes / sizes[1] > 9.8


def test_affine_bytes_are_frozen() -> None:
    encoded = parse("affine:3").encode(np.array([0, 1, 2, 3, 4, 5, 6, 7, -7], np.float32))
    assert [bytes(plane).hex() for plane in encoded.planes] == ["e0c0", "0040", "246bfb000000"]
    assert parse("affine:3").decode((9,), encoded.planes).tolist() == [1, 1, 1, 3, 5, 5, 5, 7, -7]


@pytest.mark.parametrize("spec", ["affine", "affine:", "affine:1", "affine:5", "affine:3.0"])
def test_affine_says_which_bits_it_takes(spec: str) -> None:
    with pytest.raises(UsageError, match="affine:3"):
        parse(spec)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_affine_refuses_what_it_cannot_carry(bad: float) -> None:
    with pytest.raises(UsageError, match="diverged"):
        parse("affine:2").encode(np.array([1, bad], np.float32))
    with pytest.raises(UsageError, match="diverged"):
        parse("affine:2").encode(np.array([-3e38, 3e38], np.float32))


@pytest.mark.parametrize(
    ("low", "step"), [(0x7F80, 0x3F80), (0xFFC0, 0x3F80), (0, 0x7F80), (0, 0xBF80), (0x7F00, 0x7F00)]
)
def test_affine_refuses_bytes_that_decode_to_nothing_finite(low: int, step: int) -> None:
    planes = [low.to_bytes(2, "little"), step.to_bytes(2, "little"), bytes(3)]
    with pytest.raises(WireError, match="affine:3"):
        parse("affine:3").decode((8,), planes)


def test_huffman_loses_what_affine_loses_in_fewer_bytes() -> None:
    x = np.random.default_rng(0).standard_normal((64, 500), dtype=np.float32)
    for bits, x_as_sent, fewer in ((2, x, 16), (3, x, 10.5), (4, np.maximum(x, 0), 10)):
        plain, coded = (parse(f"{name}:{bits}") for name in ("affine", "huffman"))
        encoded = coded.encode(x_as_sent)
        lost = plain.decode(x.shape, plain.encode(x_as_sent).planes)
        assert np.array_equal(coded.decode(x.shape, encoded.planes), lost)
        assert x.nbytes / encoded.nbytes > fewer
    noise = np.random.default_rng(0).random(1000, dtype=np.float32)
    assert parse("huffman:4").encode(noise).nbytes <= parse("huffman:4").max_bytes(noise.shape)


@pytest.mark.slow
def test_huffman_inflates_no_more_than_the_tensor_holds() -> None:
    codec, shape = parse("huffman:4"), (1 << 12,)
    lows, steps, _ = (bytes(plane) for plane in codec.encode(np.zeros(shape, np.float32)).planes)

    def stream(content: bytes) -> bytes:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        return deflate.compress(content) + deflate.flush()

    assert codec.decode(shape, [lows, steps, stream(bytes(1 << 11))]).any() == np.False_
    whole = stream(bytes(1 << 11))
    for bad in (stream(bytes(1 << 30)), stream(bytes((1 << 11) - 1)), whole[:-1], whole + b"x", b"\xff" * 9):
        with pytest.raises(WireError, match="huffman:4"):
            codec.decode(shape, [lows, steps, bad])


# Error feedback of gradients


def test_feedback_gives_every_sample_its_own_residual_and_nothing_of_a_sum_is_lost() -> None:
    feedback = GradientFeedback("topk:0.1", 12)
    chance = np.random.default_rng(0)
    sent, wanted = np.zeros((12, 30), np.float32), np.zeros((12, 30), np.float32)
    for _ in range(5):
        feedback.begin()
        for rows in np.split(chance.permutation(12), [5, 10]):
            gradient = chance.standard_normal((len(rows), 30), dtype=np.float32)
            wanted[rows] += gradient
            tensor = feedback.encode((torch.from_numpy(gradient),), SINGLE, rows.tolist())
            sent[rows] += parse(tensor.codec).decode(tensor.shape, tensor.planes)
        feedback.finish()
    residual = feedback._feedback._residuals["output"]  # type: ignore[union-attr]
    np.testing.assert_allclose(sent + residual, wanted, atol=1e-5)
    assert not np.allclose(sent, wanted, atol=0.1)
    assert feedback.nbytes == 12 * 30 * 4
    feedback.begin()
    assert feedback.nbytes > 0
    feedback.begin()  # the round before was not finished: what it sent is not counted
    assert feedback.nbytes == 0


def test_feedback_is_bounded_and_exact_codecs_have_none() -> None:
    gradient = torch.ones(1, 1024)
    for spec, samples in (("topk:0.1", 20_000), ("fp32", 4), ("int8", 4)):
        feedback = GradientFeedback(spec, samples)
        feedback.begin()
        feedback.encode((gradient,), SINGLE, [3])
        assert feedback.nbytes == 0, spec


# Bytes of real runs


@pytest.mark.parametrize(
    ("activations", "gradients"),
    [("fp16", "bf16"), ("int8", "int8"), ("int4", "topk:0.2"), ("affine:3", "affine:3"), ("affine:2", "huffman:4")],
)
def test_bytes_over_the_devices_link_are_what_the_codecs_say(
    mosquitto: BrokerProcess, tmp_path: Path, activations: str, gradients: str
) -> None:
    outcome = train(mosquitto, tmp_path, activations=activations, gradients=gradients)
    batches = SAMPLES * DEVICES // BATCH
    first, last = (BATCH, 16, 8, 8), (BATCH, 64)
    ahead, back = parse(activations), parse(gradients)
    device = DEVICES * 2 * (16 * 9 + 3 * 16 + 64 * 10 + 10) * 4
    spent = outcome.summary["rounds"][0]["bytes"]
    for key, sizes in (
        ("device_up", ahead.max_bytes(first) + back.max_bytes(last)),
        ("device_down", ahead.max_bytes(last) + back.max_bytes(first)),
    ):
        least = ahead_and_back(ahead, back, key, first, last) * batches
        assert least <= spent[key] <= batches * (sizes + 2000) + device + 20_000


def ahead_and_back(ahead: Any, back: Any, key: str, first: tuple[int, ...], last: tuple[int, ...]) -> int:
    there, here = (first, last) if key == "device_up" else (last, first)
    return sum(sum(codec._min_sizes(int(np.prod(shape)))) for codec, shape in ((ahead, there), (back, here)))


# Weights that travel


@pytest.mark.parametrize("spec", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("chunk_bytes", [4096, 512 * 1024])
def test_orchestrator_and_device_agree_on_every_bit(spec: str, chunk_bytes: int) -> None:
    chance = np.random.default_rng(0)
    codec = WeightCodec(spec)

    def part(scale: float) -> list[tuple[str, torch.Tensor]]:
        shapes = {"weight": (70, 50), "bias": (70,), "running_var": (70,)}
        found = [(n, torch.from_numpy(scale * chance.standard_normal(s, dtype=np.float32))) for n, s in shapes.items()]
        return [*found, ("num_batches_tracked", torch.tensor(7))]

    tensors = part(0.1)
    parts = DeviceParts([tensors], codec, chunk_bytes)
    device = [np.empty_like(array) for array in parts.arrays[0]]
    wished = parts.arrays[0][0].astype(np.float64)
    for round in range(1, 30):
        sent = parts.slices(round - 1)
        for message in sent:
            weights.write(device, message, codec.globals(tensors))
        assert sum(m.tensor.nbytes for m in sent) == weights.coded_bytes(device, codec.globals(tensors), chunk_bytes)
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(device, parts.arrays[0], strict=True))

        # The device trains: a change much smaller than fp16 resolves in the weights themselves.
        change = 1e-5 * chance.standard_normal(device[0].shape, dtype=np.float32)
        trained = [device[0] + change, device[1] + 1, device[2], device[3] + 1]
        updates = codec.updates(tensors)
        changes = [
            after if kind == RAW else after - before
            for after, before, kind in zip(trained, device, updates, strict=True)
        ]
        staged = parts.empty()
        arrived = 0
        for message in weights.slices(changes, "update", round, 1, 0, chunk_bytes, updates):
            parts.write_update(staged, message)
            arrived += message.tensor.nbytes
        assert arrived == parts.update_bytes
        exact = [updates[index] == RAW for index in range(4)]
        assert [np.array_equal(a, b) for a, b in zip(staged[0], trained, strict=True)][1:] == exact[1:]
        np.testing.assert_allclose(staged[0][0], trained[0], atol=3e-7 if spec == "int8" else 5e-8)
        parts.round_to_received(staged)
        for committed, average in zip(parts.arrays[0], staged[0], strict=True):
            committed[...] = average
        wished += change
    # Nothing of the small changes is lost in the rounding of the weights: it is held back until it is enough.
    assert np.abs(parts.arrays[0][0] - wished).max() < {"fp32": 1e-6, "fp16": 3e-4, "int8": 3e-4}[spec]
    assert np.abs(parts.arrays[0][0] - wished).mean() < {"fp32": 1e-7, "fp16": 4e-5, "int8": 4e-5}[spec]


def test_only_matrices_are_coded_and_both_ends_must_say_so() -> None:
    tensors = [("w", torch.ones(3, 4)), ("b", torch.ones(4)), ("n", torch.tensor(1)), ("i", torch.ones(3, 4).long())]
    assert WeightCodec("int8").updates(tensors) == ["int8", RAW, RAW, RAW]
    assert WeightCodec("int8").globals(tensors) == ["fp16", RAW, RAW, RAW]
    assert WeightCodec("fp32").updates(tensors) == [RAW] * 4
    arrays = weights.arrays_of(tensors)
    coded = list(weights.slices(arrays, "update", 1, 1, 0, 4096, WeightCodec("int8").updates(tensors)))
    with pytest.raises(WireError, match="in raw"):
        weights.write(arrays, coded[0])
    plain = list(weights.slices(arrays, "update", 1, 1, 0, 4096))
    with pytest.raises(WireError, match="not as many in raw"):
        weights.write(arrays, plain[0], WeightCodec("int8").updates(tensors))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, torch.Tensor]]:
    """What every device holds of the model when it was last evaluated."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    perform = DevicePerformer.perform

    def remember(self: DevicePerformer, job: WorkerJob, session: SessionId | None) -> Result:
        if isinstance(job, TailProbe):
            parts = [part.state_dict() for part in self.sessions[session].parts]
            found[self._id] = {name: tensor.clone() for part in parts for name, tensor in part.items()}
        return perform(self, job, session)

    monkeypatch.setattr(DevicePerformer, "perform", remember)
    return found


@pytest.mark.parametrize("spec", ["fp16", "int8"])
@pytest.mark.parametrize("cuts", [(), (1, 8)], ids=["no-hops", "one-hop"])
def test_a_run_with_coded_weights_commits_what_the_devices_hold(
    mosquitto: BrokerProcess, tmp_path: Path, held: dict[str, dict[str, torch.Tensor]], spec: str, cuts: tuple[int, ...]
) -> None:
    outcome = train(mosquitto, tmp_path / "coded", test=10, rounds=3, cuts=cuts, weights=spec)
    evaluated = dict(held)
    plain = train(mosquitto, tmp_path / "plain", test=10, rounds=3, cuts=cuts)
    saved = load_file(tmp_path / "coded" / "model.safetensors")
    assert len(evaluated) == DEVICES
    for device in evaluated.values():
        different = [name for name, tensor in device.items() if not torch.equal(tensor, saved[name])]
        assert different == []
    coded, raw = (run.summary["rounds"][1]["bytes"] for run in (outcome, plain))
    assert coded["device_up"] < raw["device_up"]
    assert coded["device_down"] < raw["device_down"]
    if not cuts:  # nothing but weights on the link
        assert raw["device_up"] / coded["device_up"] > {"fp16": 1.8, "int8": 3.2}[spec]
        assert raw["device_down"] / coded["device_down"] > 1.8


def test_the_seconds_of_coding_are_counted_until_asked_for() -> None:
    ticks = iter(range(100))
    coding = Coding(lambda: float(next(ticks)), WireSection(gradients="fp16"), 48)
    tensor = torch.randn(3, 4)
    (decoded,) = coding.decode_activations(coding.encode_activations((tensor,), SINGLE), SINGLE)
    assert torch.equal(decoded, tensor)
    with pytest.raises(WireError):
        coding.decode_activations(coding.encode_gradients((tensor,), SINGLE), SINGLE)
    assert (coding.take(), coding.take()) == (4.0, 0.0)
