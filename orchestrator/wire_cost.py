"""Measures the CPU cost of a byte on the wire, at an end and in the broker, in a short run of the model.

In a run, training has filled the caches before each message, and messages come with acknowledgements, jobs and reports.
So a byte costs two to three times as much as in a plain stream of tensors, and only a real run shows it.
"""

import asyncio
import statistics
from dataclasses import dataclass, replace
from math import ceil

import click

from mpsl.errors import MeasurementError
from mpsl.job import FleetSection, Job, RunSection
from mpsl.planning.profile_file import Profile
from mpsl.profile_questions import optimizer_section
from orchestrator.measuring import MeasuringTask
from orchestrator.observed_system import ORCHESTRATOR, Sample, observe, rate

STEADY_S, STEADY_BATCHES = 8.0, 12
"""The intended length of the steady part, in seconds and in batches."""
MIN_STEADY_S = 3.0
"""The minimum length of the steady part. Nodes report every two seconds, and CPU is counted in hundredths of one."""
MIN_BATCH_S = 0.005
"""The minimum time of a batch: any batch takes about this long to cross a hop and a broker."""
MAX_RUNS = 3
"""The number of runs that are tried, each longer than the last."""
RETRY_GROWTH = 4
"""The factor by which the next run is longer, if the last one was too short."""
NO_WIRE_HINT = "; --no-wire profiles without it"
SHARD_BATCHES = 2
"""Batches in the shard of each device. The number of epochs sets the length of a run."""


@dataclass(frozen=True)
class WireCost:
    """CPU seconds for 10⁹ bytes: at an end (the mean over all ends), and in the broker between them."""

    end: float
    broker: float


def cuts_of_one_hop(profile: Profile) -> tuple[int, int] | None:
    """Return the cuts for one hop, or None if the model is too short for a hop.

    The first cut comes after the first block whose output has the median size of all possible cuts. The second comes
    before the last block, which is always the device's.
    """
    sizes = [block.output_bytes for block in profile.blocks[:-1]]
    if len(sizes) < 2:
        return None
    middle = statistics.median_high(sizes[:-1])
    return sizes.index(middle) + 1, len(sizes)


def wire_cost(profile: Profile, engine: str, task: MeasuringTask, copies: int, batch_s: float) -> WireCost | None:
    """Measure in a run of one node and `copies` devices, each a process. Returns None for a model too short for a hop.

    `profile` has the model's bytes; `batch_s` is the time of a batch of the whole model. Raises UsageError or
    BrokerError if no broker can be started, and MeasurementError if the run fails or is too short.
    """
    cuts = cuts_of_one_hop(profile)
    if cuts is None:
        return None
    steady = max(STEADY_BATCHES, ceil(STEADY_S / max(batch_s, MIN_BATCH_S)))
    for _ in range(MAX_RUNS):
        window = _steady_part(cuts, engine, task, copies, steady)
        if window is not None and window[1].at - window[0].at >= MIN_STEADY_S:
            return _cost(profile, cuts, *window)
        steady = RETRY_GROWTH * steady if window is None else max(2 * steady, ceil(STEADY_S * rate(*window, "node-1")))
    raise MeasurementError(f"the run for the cost of a byte was too short to see a steady state{NO_WIRE_HINT}")


def _steady_part(
    cuts: tuple[int, int], engine: str, task: MeasuringTask, copies: int, batches: int
) -> tuple[Sample, Sample] | None:
    """Run once. Returns the samples around at least `batches` batches, or None if the run ended before two samples."""
    warm = 2 * copies
    epochs = ceil((warm + batches + copies) / (SHARD_BATCHES * copies))
    job = Job(
        RunSection("wire-cost", 1, task.batch_size, local_epochs=epochs),
        replace(task.model, cuts=cuts),
        optimizer_section(task.optimizer),
        FleetSection(copies, 1, start_timeout_s=120.0),
    )
    click.echo(f"a short run of {task.model.name}, cut at {cuts[0]} and {cuts[1]}, for the cost of a byte", err=True)
    observed = asyncio.run(observe(job, SHARD_BATCHES, engine, task.threads))
    if observed.summary["state"] != "done":
        raise MeasurementError(f"the run for the cost of a byte failed: {observed.summary['reason']}{NO_WIRE_HINT}")
    return observed.steady(warm, epochs * SHARD_BATCHES * copies - copies, "node-1")


def _cost(profile: Profile, cuts: tuple[int, int], first: Sample, end: Sample) -> WireCost:
    """Divide the CPU time of event loops, codecs and broker by the bytes that crossed the cuts between two samples."""
    batches = rate(first, end, "node-1") * (end.at - first.at)
    ends = broker = 0.0
    for name, reading in end.readings.items():
        spent = reading - first.readings[name]
        if name == "broker":
            broker = spent.total_s
        elif name != ORCHESTRATOR:
            ends += spent.loop_s + end.coding.get(name, 0.0) - first.coding.get(name, 0.0)
    # Each cut is crossed in both directions; every byte has two ends.
    gigabytes = 2 * sum(profile.blocks[cut - 1].output_bytes for cut in cuts) * batches / 1e9
    return WireCost(ends / gigabytes / 2, broker / gigabytes)
