"""Every sample is used exactly once, every device gets enough, and the seed fixes the split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsl.errors import UsageError
from orchestrator.partition import dirichlet, iid


def check(parts: list[np.ndarray], samples: int, devices: int, minimum: int) -> None:
    assert len(parts) == devices
    assert min(len(part) for part in parts) >= minimum
    assert sorted(np.concatenate(parts).tolist()) == list(range(samples))


@given(st.integers(1, 12), st.integers(0, 4), st.integers(0, 60), st.integers(0, 9))
def test_iid_uses_every_sample_once_and_evenly(devices: int, minimum: int, more: int, seed: int) -> None:
    samples = devices * minimum + more
    parts = iid(samples, devices, np.random.default_rng(seed), minimum)
    check(parts, samples, devices, minimum)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(
    st.integers(1, 9),
    st.integers(0, 4),
    st.lists(st.integers(0, 5), max_size=60),
    st.floats(0.001, 1e6),
    st.integers(0, 9),
)
def test_dirichlet_uses_every_sample_once(devices: int, minimum: int, more: list[int], alpha: float, seed: int) -> None:
    labels = np.array([0] * (devices * minimum + 1) + more, dtype=np.int64)
    parts = dirichlet(labels, devices, alpha, np.random.default_rng(seed), minimum)
    check(parts, len(labels), devices, minimum)
    again = dirichlet(labels, devices, alpha, np.random.default_rng(seed), minimum)
    assert all(np.array_equal(*pair) for pair in zip(parts, again, strict=True))


def test_a_small_alpha_skews_labels_and_a_large_one_does_not() -> None:
    labels = np.repeat(np.arange(10), 100)

    def largest_share(alpha: float) -> float:
        parts = dirichlet(labels, 5, alpha, np.random.default_rng(1))
        return float(np.mean([np.bincount(labels[part]).max() / len(part) for part in parts]))

    assert largest_share(1000.0) < 0.13
    assert largest_share(0.1) > 0.25


def test_another_seed_is_another_split() -> None:
    first, second = (iid(100, 2, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_alpha_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha"):
        dirichlet(np.zeros(9, np.int64), 2, alpha, np.random.default_rng(0))


def test_too_few_samples_or_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="5 samples are too few for 3 devices with at least 2 each"):
        iid(5, 3, np.random.default_rng(0))
    with pytest.raises(UsageError, match="0 devices"):
        dirichlet(np.zeros(9, np.int64), 0, 1.0, np.random.default_rng(0))
