"""What a byte on the wire costs in CPU, at an end and in the broker: the real link and driver, two processes.

Measured as a run has it, while the cores compute and with pauses between tensors: code and bytes that training has
driven out of the caches cost twice as much as in a stream.
"""

import asyncio
import statistics
from dataclasses import dataclass

from mpsl.planning.profile import Profile
from orchestrator.bench.link import pair
from orchestrator.measuring import Task, computing

SMALLEST, LARGEST = 64 * 1024, 16 << 20
"""Bytes of the tensors that are sent: a model's own, within what takes neither too many nor too few of them."""
RUN_S = 2.5
"""A run takes about that; the system counts CPU in hundredths of a second."""
MOST_PAUSE_S, PAUSES = 0.03, 8
"""Between two tensors: a batch's time in so many, as a hop of a chain of two has it, but no longer than that."""
REPEATS = 3
CHUNK_BYTES = 512 * 1024
BYTES_PER_S = 0.5e9


def tensor_bytes(profile: Profile) -> int:
    """The middle one of the outputs that a cut may send, in whole numbers of four bytes."""
    inner = [block.output_bytes for block in profile.blocks[:-1]] or [profile.blocks[0].output_bytes]
    return min(max(int(statistics.median(inner)), SMALLEST), LARGEST) // 4 * 4


@dataclass(frozen=True)
class WireCost:
    """CPU seconds for 10⁹ bytes: of an end, the mean of sender and receiver, and of the broker between them."""

    end: float
    broker: float


def wire_cost(size: int, engine: str, task: Task, copies: int, batch_s: float) -> WireCost:
    """Measured with tensors of `size` bytes while `copies` processes compute `task`, the medians of REPEATS.

    `batch_s` is how long a batch of the whole model takes.

    Raises UsageError or BrokerError where no broker can be started, MeasurementError where nothing computes.
    """
    pause_s = min(MOST_PAUSE_S, batch_s / PAUSES)
    count = max(8, int(RUN_S / (pause_s + size / BYTES_PER_S)))
    with computing(task, copies):
        runs = [asyncio.run(pair(engine, False, size, count, CHUNK_BYTES, pause_s)) for _ in range(REPEATS)]
    return WireCost(
        statistics.median((run["send_cpu_s_per_gb"] + run["receive_cpu_s_per_gb"]) / 2 for run in runs),
        statistics.median(run["broker_cpu_s_per_gb"] for run in runs),
    )
