"""What a byte on the wire costs in CPU at one end: the real link and driver, two processes, a broker between them."""

import asyncio
import statistics

from mpsl.planning.profile import Profile
from orchestrator.bench.link import pair

SMALLEST, LARGEST = 64 * 1024, 16 << 20
"""Bytes of the tensors that are sent: a model's own, within what takes neither too many nor too few of them."""
TOTAL = 256 << 20
REPEATS = 3
CHUNK_BYTES = 512 * 1024


def tensor_bytes(profile: Profile) -> int:
    """The middle one of the outputs that a cut may send, in whole numbers of four bytes."""
    inner = [block.output_bytes for block in profile.blocks[:-1]] or [profile.blocks[0].output_bytes]
    return min(max(int(statistics.median(inner)), SMALLEST), LARGEST) // 4 * 4


def wire_cpu_s_per_gb(size: int, engine: str) -> float:
    """CPU seconds for 10⁹ bytes in tensors of `size` bytes: the mean of sender and receiver, the median of REPEATS.

    Raises UsageError or BrokerError where no broker can be started.
    """
    count = max(4, min(2000, TOTAL // size))
    runs = [asyncio.run(pair(engine, False, size, count, CHUNK_BYTES)) for _ in range(REPEATS)]
    return statistics.median((run["send_cpu_s_per_gb"] + run["receive_cpu_s_per_gb"]) / 2 for run in runs)
