"""splitfed-v1: fp32 sums bit for bit as a plain torch loop makes them, in pieces and over replicas alike."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsl.aggregation import Array, aggregations, splitfed_v1
from mpsl.errors import UsageError

RULE = aggregations.get("splitfed-v1")


def fold_all(tensors: list[Array], samples: list[int]) -> Array:
    total = RULE.empty(tensors[0])
    for tensor, count in zip(tensors, samples, strict=True):
        RULE.fold(total, tensor, count)
    return total


@settings(deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 100_000), min_size=1, max_size=6), st.integers(1, 500))
def test_the_sum_is_a_plain_loop_in_fp32(seed: int, samples: list[int], size: int) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(size, generator=generator) * 10 ** (number - 3) for number in range(len(samples))]
    accumulator = torch.zeros(size)
    for tensor, count in zip(tensors, samples, strict=True):
        accumulator += count * tensor
    total = fold_all([tensor.numpy() for tensor in tensors], samples)
    assert total.dtype == np.float32
    assert np.array_equal(total, accumulator.numpy())
    RULE.close(total, sum(samples))
    assert np.array_equal(total, (accumulator / sum(samples)).numpy())


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = np.random.default_rng(1)
    tensors = [chance.standard_normal((3, 7, 11)).astype(np.float32) for _ in range(3)]
    whole = fold_all(tensors, [3, 5, 7])
    monkeypatch.setattr(splitfed_v1, "FOLD_ELEMENTS", 10)
    assert np.array_equal(fold_all(tensors, [3, 5, 7]), whole)
    assert np.array_equal(whole, np.float32(3) * tensors[0] + np.float32(5) * tensors[1] + np.float32(7) * tensors[2])


def test_the_order_counts() -> None:
    """fp32 sums depend on it, so it is part of the contract."""
    tensors = [np.array([value], np.float32) for value in (1e8, -1e8, 1.0)]
    assert fold_all(tensors, [1, 1, 1])[0] == 1.0
    assert fold_all([tensors[0], tensors[2], tensors[1]], [1, 1, 1])[0] == 0.0


def test_device_tensors_are_left_alone() -> None:
    tensor = np.array([1.5, 2.5], np.float32)
    fold_all([tensor, tensor], [10, 20])
    assert tensor.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_of_integers_the_largest_stands(dtype: type) -> None:
    tensors = [np.array(values, dtype) for values in ([3, 0, 9], [7, 0, 2], [5, 1, 4])]
    total = fold_all(tensors, [100, 1, 10])
    RULE.close(total, 111)
    assert total.dtype == dtype
    assert total.tolist() == [7, 1, 9]


def test_negative_integers_too() -> None:
    assert fold_all([np.array([-5]), np.array([-3])], [1, 1]).tolist() == [-3]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 500), min_size=2, max_size=6), st.data())
def test_replicas_merge_in_their_order(seed: int, samples: list[int], data: st.DataObject) -> None:
    """Each replica folds its own devices; the merge adds the sums, so it is the documented sum of sums, bit for bit."""
    chance = np.random.default_rng(seed)
    tensors = [chance.standard_normal(50).astype(np.float32) for _ in samples]
    cut = data.draw(st.integers(1, len(samples) - 1))
    total = fold_all(tensors[:cut], samples[:cut])
    other = fold_all(tensors[cut:], samples[cut:])
    expected = total + other
    RULE.merge(total, other)
    assert np.array_equal(total, expected)
    counters = np.array([4]), np.array([6])
    RULE.merge(*counters)
    assert counters[0].tolist() == [6]


def test_an_empty_replica_changes_nothing() -> None:
    for like in (np.array([0.25, -0.5], np.float32), np.array([-2, 7])):
        total = fold_all([like], [4])
        before = total.copy()
        RULE.merge(total, RULE.empty(like))
        assert np.array_equal(total, before)


def test_a_scalar_buffer_is_folded() -> None:
    """BatchNorm counts its batches in a tensor without dimensions."""
    assert fold_all([np.array(4), np.array(9)], [1, 2]) == 9
    assert fold_all([np.array(4.0, np.float32), np.array(9.0, np.float32)], [1, 2]) == 22.0


def test_an_unknown_rule_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown algorithm 'splitfed-v2'; did you mean 'splitfed-v1'\?"):
        aggregations.get("splitfed-v2")
