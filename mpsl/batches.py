"""Which samples make up which micro-batch, in an order that anyone with numpy can repeat.

Section 2 of the design: order of device `id` in round r, local epoch e is
`numpy.random.default_rng([seed, r, e, crc32(id)]).permutation(n)`; batches are consecutive, the last, smaller one is
kept; micro-batches are `torch.tensor_split` of the batch (`numpy.array_split` cuts alike), empty ones skipped.
"""

from binascii import crc32

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def order(samples: int, seed: int, round: int, epoch: int, device: str, shuffle: bool) -> Indices:
    """Return the shard's indices in the order in which `device` uses them; round from 1, epoch from 0."""
    if not shuffle:
        return np.arange(samples)
    return np.random.default_rng([seed, round, epoch, crc32(device.encode())]).permutation(samples)


def batches_per_epoch(samples: int, batch_size: int) -> int:
    """Return the number of optimizer steps in one pass over the shard."""
    return -(-samples // batch_size)


def micro_batches(indices: Indices, batch: int, batch_size: int, micro_batches: int) -> list[Indices]:
    """Return the micro-batches of batch number `batch` of an epoch whose order is `indices`."""
    chosen = indices[batch * batch_size : (batch + 1) * batch_size]
    return [part for part in np.array_split(chosen, micro_batches) if len(part)]


def smallest_micro_batch(samples: int, batch_size: int, micro_batches: int) -> int:
    """Return the smallest number of samples in any forward pass of this device."""
    sizes = {min(batch_size, samples), samples % batch_size or batch_size}
    return min(max(1, size // micro_batches) for size in sizes if size <= samples)


def block_seed(seed: int, device: str, round: int, epoch: int, batch: int, micro: int, block: int) -> int:
    """Return the seed of torch's generator before `block` (index in the whole model) of a training forward.

    `numpy.random.SeedSequence([seed, round, epoch, crc32(device), batch, micro, block])`, its first 64-bit word; batch
    and micro-batch count from 0 within their epoch and batch.
    """
    words = np.random.SeedSequence([seed, round, epoch, crc32(device.encode()), batch, micro, block])
    return int(words.generate_state(1, np.uint64)[0])
