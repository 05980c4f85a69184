"""Which sample is used when: exactly what the documents say, so that anyone with numpy and torch can repeat a run."""

from binascii import crc32

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpsl.batches import batches_per_epoch, block_seed, micro_batches, order, smallest_micro_batch

sizes = st.integers(1, 300)


@given(sizes, st.integers(0, 2**63 - 1), st.integers(1, 1000), st.integers(0, 9), st.from_regex(r"[a-z0-9-]{1,32}\Z"))
def test_order_is_the_documented_formula(samples: int, seed: int, round: int, epoch: int, device: str) -> None:
    documented = np.random.default_rng([seed, round, epoch, crc32(device.encode())]).permutation(samples)
    assert np.array_equal(order(samples, seed, round, epoch, device, shuffle=True), documented)
    assert np.array_equal(order(samples, seed, round, epoch, device, shuffle=False), np.arange(samples))


def test_order_is_frozen() -> None:
    """As numpy computed it when this was written: one that computes otherwise makes old runs unrepeatable."""
    assert order(8, 7, 1, 0, "dev-1", shuffle=True).tolist() == [0, 7, 4, 1, 6, 3, 2, 5]
    assert order(8, 7, 2, 0, "dev-1", shuffle=True).tolist() != order(8, 7, 1, 0, "dev-1", shuffle=True).tolist()


@given(sizes, st.integers(1, 64), st.integers(1, 9))
def test_micro_batches_are_tensor_split_of_consecutive_batches(samples: int, batch_size: int, count: int) -> None:
    indices = order(samples, 3, 1, 0, "dev-1", shuffle=True)
    batches = torch.from_numpy(indices).split(batch_size)
    assert batches_per_epoch(samples, batch_size) == len(batches)
    for number, batch in enumerate(batches):
        expected = [part.tolist() for part in batch.tensor_split(count) if len(part)]
        assert [part.tolist() for part in micro_batches(indices, number, batch_size, count)] == expected


@given(sizes, st.integers(1, 64), st.integers(1, 9))
def test_smallest_micro_batch(samples: int, batch_size: int, count: int) -> None:
    indices = np.arange(samples)
    found = [
        len(part)
        for batch in range(batches_per_epoch(samples, batch_size))
        for part in micro_batches(indices, batch, batch_size, count)
    ]
    assert smallest_micro_batch(samples, batch_size, count) == min(found)


def test_block_seeds_are_frozen() -> None:
    assert block_seed(0, "dev-1", 1, 0, 0, 0, 0) == 17092672593388804227
    assert block_seed(7, "dev-2", 3, 1, 4, 2, 5) == 11000494005729923928
    assert block_seed(2**63 - 1, "a", 1000, 9, 99, 31, 35) == 1998934887823205833


def test_block_seeds_are_the_documented_formula_and_suit_torch() -> None:
    seeds = set()
    for device, round, epoch, batch, micro, block in [
        ("dev-1", 1, 0, 0, 0, 0), ("dev-2", 1, 0, 0, 0, 0), ("dev-1", 2, 0, 0, 0, 0), ("dev-1", 1, 1, 0, 0, 0),
        ("dev-1", 1, 0, 1, 0, 0), ("dev-1", 1, 0, 0, 1, 0), ("dev-1", 1, 0, 0, 0, 1),
    ]:  # fmt: skip
        words = np.random.SeedSequence([5, round, epoch, crc32(device.encode()), batch, micro, block])
        seed = block_seed(5, device, round, epoch, batch, micro, block)
        assert seed == int(words.generate_state(1, np.uint64)[0])
        torch.Generator().manual_seed(seed)
        seeds.add(seed)
    assert len(seeds) == 7, "each of the numbers counts"
