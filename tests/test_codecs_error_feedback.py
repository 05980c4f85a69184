"""Error feedback loses nothing of a sum, keeps rows apart, and stays bounded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsl.codecs import ErrorFeedback, parse
from mpsl.codecs.codec import Floats
from mpsl.errors import UsageError

LOSSY = ["fp16", "bf16", "int8", "int4", "topk:0.1"]


def send(feedback: ErrorFeedback, key: str, array: Floats, rows: list[int] | None = None) -> Floats:
    encoded = feedback.encode(key, array, rows)
    return feedback.codec.decode(array.shape, [bytes(plane) for plane in encoded.planes])


def drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("spec", LOSSY)
@given(seed=st.integers(0, 1000), batches=st.lists(st.integers(0, 6), min_size=1, max_size=12), named=st.booleans())
@settings(max_examples=30)
def test_what_arrives_and_the_residual_are_what_was_sent(spec: str, seed: int, batches: list[int], named: bool) -> None:
    """Batches of changing size, rows by number or by name: nothing of the sum over a row is lost."""
    generator = np.random.default_rng(seed)
    feedback = ErrorFeedback(parse(spec))
    sent, arrived = np.zeros((40, 7)), np.zeros((40, 7))
    for size in batches:
        rows = generator.permutation(40)[:size].tolist() if named else list(range(size))
        x = generator.standard_normal((size, 7), dtype=np.float32)
        arrived[rows] += send(feedback, "key", x, rows if named else None)
        sent[rows] += x
    residual = np.zeros((40, 7))
    held = feedback._residuals["key"]
    residual[: len(held)] = held[:40]
    np.testing.assert_allclose(arrived + residual, sent, atol=1e-4)


@pytest.mark.parametrize("spec", LOSSY)
def test_the_mean_of_a_constant_becomes_exact(spec: str) -> None:
    """Without feedback the error of the mean would be the same after 200 calls as after one."""
    feedback, x, total = ErrorFeedback(parse(spec)), drawn(3, 16, 32), np.zeros((16, 32))
    for _ in range(200):
        total += send(feedback, "weight", x)
    once = np.abs(feedback.codec.decode(x.shape, feedback.codec.encode(x).planes) - x).max()
    assert np.abs(total / 200 - x).max() < once / 5


@pytest.mark.parametrize("spec", ["int8", "int4", "topk:0.1"])
def test_the_residual_is_bounded(spec: str) -> None:
    feedback, kept = ErrorFeedback(parse(spec)), 0.1
    for step in range(300):
        x = drawn(step, 8, 25)
        feedback.encode("weight", x / np.linalg.norm(x))
    root = (1 - kept) ** 0.5
    assert np.linalg.norm(feedback._residuals["weight"]) <= root / (1 - root)


def test_keys_and_rows_do_not_mix() -> None:
    codec = parse("int4")
    feedback, x = ErrorFeedback(codec), drawn(1, 4, 9)
    plain = codec.decode(x.shape, codec.encode(x).planes)
    np.testing.assert_array_equal(send(feedback, "a", x, [0, 1, 2, 3]), plain)
    np.testing.assert_array_equal(send(feedback, "b", x, [0, 1, 2, 3]), plain)
    np.testing.assert_array_equal(send(feedback, "a", x, [7, 5, 6, 4]), plain)
    left = (x - plain)[[2, 0]]
    again = codec.encode(x[:2] + left)
    np.testing.assert_array_equal(send(feedback, "a", x[:2], [2, 0]), codec.decode((2, 9), again.planes))


def test_a_smaller_batch_leaves_the_other_residuals() -> None:
    codec = parse("int4")
    feedback, x = ErrorFeedback(codec), drawn(2, 5, 9)
    send(feedback, "a", x)
    before = feedback._residuals["a"].copy()
    send(feedback, "a", x[:2])
    np.testing.assert_array_equal(feedback._residuals["a"][2:], before[2:])
    assert not np.array_equal(feedback._residuals["a"][:2], before[:2])


def test_exact_keeps_nothing_and_forget_forgets() -> None:
    exact, lossy = ErrorFeedback(parse("fp32")), ErrorFeedback(parse("int8"))
    for feedback in (exact, lossy):
        feedback.encode("a", drawn(1, 3, 5))
        feedback.encode("scalar", np.array(0.3, np.float32))
        feedback.encode("empty", np.empty((0, 4), np.float32))
    assert (exact.nbytes, lossy.nbytes) == (0, 4 * (15 + 1))
    lossy.forget("a")
    lossy.forget("never seen")
    assert lossy.nbytes == 4
    lossy.encode("b", drawn(1, 2, 5), [9, 4])
    assert lossy.nbytes == 4 + 4 * 5 * 10


@pytest.mark.parametrize("spec", LOSSY)
@pytest.mark.parametrize("strange", [np.nan, np.inf])
def test_a_diverged_tensor_does_not_poison_the_residual(spec: str, strange: float) -> None:
    feedback, x = ErrorFeedback(parse(spec)), drawn(1, 3, 5)
    feedback.encode("a", x)
    before = feedback._residuals["a"].copy()
    bad = x.copy()
    bad[1, 2] = strange
    with pytest.raises(UsageError, match="diverged"):
        feedback.encode("a", bad)
    np.testing.assert_array_equal(feedback._residuals["a"], before)


@pytest.mark.parametrize("rows", [[0], [0, 0], [-1, 2], [0, 1, 2]])
def test_wrong_rows_are_a_programming_error(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="different numbers"):
        ErrorFeedback(parse("int8")).encode("a", drawn(1, 2, 3), rows)


def test_another_row_shape_under_one_key_is_a_programming_error() -> None:
    feedback = ErrorFeedback(parse("int8"))
    feedback.encode("a", drawn(1, 2, 3))
    with pytest.raises(ValueError, match="had rows of shape"):
        feedback.encode("a", drawn(1, 2, 4))
