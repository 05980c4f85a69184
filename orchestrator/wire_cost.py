"""What a byte on the wire costs in CPU, at an end and in the broker: measured in a short run of the model itself.

Every message of a run finds code and caches as training has left them, which costs two and three times what a stream
of tensors does, and comes with acknowledgements, jobs and reports; only a run has all that as a run has it.
"""

import asyncio
import statistics
from dataclasses import dataclass
from math import ceil

import click

from mpsl.errors import MeasurementError
from mpsl.job import FleetSection, Job, ModelSection, RunSection
from mpsl.planning.profile import Profile
from mpsl.profiling import optimizer_section
from orchestrator.measuring import Task
from orchestrator.observed_system import ORCHESTRATOR, Sample, observe, rate

RUN_S, BATCHES = 8.0, 12
"""What the steady part is to have,"""
ENOUGH_S = 3.0
"""and what it must have: nodes say every other second where they are, and CPU is counted in hundredths of one."""
BATCH_S = 0.005
"""Whatever the model, a batch takes about that long to cross a hop and a broker; where it is less,"""
TRIES = 3
"""a longer run is tried, so often in all."""
MORE = 4
"""So many times longer, where the one before was too short to tell how long."""
HELP = "; --no-wire profiles without it"
SHARD_BATCHES = 2
"""Of each device: it trains on them as many epochs as it takes."""


@dataclass(frozen=True)
class WireCost:
    """CPU seconds for 10⁹ bytes: of an end, the mean over all of them, and of the broker between them."""

    end: float
    broker: float


def cuts_of_one_hop(profile: Profile) -> tuple[int, int] | None:
    """From the first block whose output has the middle size of all that cuts may send, to the last block, which is
    always the device's; None where the model is too short for a hop.
    """
    sizes = [block.output_bytes for block in profile.blocks[:-1]]
    if len(sizes) < 2:
        return None
    middle = statistics.median_high(sizes[:-1])
    return sizes.index(middle) + 1, len(sizes)


def wire_cost(profile: Profile, engine: str, task: Task, copies: int, batch_s: float) -> WireCost | None:
    """Measured in a run of one node and `copies` devices, each a process; None for a model that no hop can share.

    `profile` has the model's bytes, `batch_s` is how long a batch of the whole model takes. Raises UsageError or
    BrokerError where no broker can be started, MeasurementError where the run does not come to its end.
    """
    cuts = cuts_of_one_hop(profile)
    if cuts is None:
        return None
    steady = max(BATCHES, ceil(RUN_S / max(batch_s, BATCH_S)))
    for _ in range(TRIES):
        window = _steady_part(cuts, engine, task, copies, steady)
        if window is not None and window[1].at - window[0].at >= ENOUGH_S:
            return _cost(profile, cuts, *window)
        steady = MORE * steady if window is None else max(2 * steady, ceil(RUN_S * rate(*window, "node-1")))
    raise MeasurementError(f"the run that was to say what a byte costs was too short to see a steady state{HELP}")


def _steady_part(
    cuts: tuple[int, int], engine: str, task: Task, copies: int, batches: int
) -> tuple[Sample, Sample] | None:
    """The samples around at least so many `batches` of a run; None where it had passed before there were two."""
    warm = 2 * copies
    epochs = ceil((warm + batches + copies) / (SHARD_BATCHES * copies))
    job = Job(
        RunSection("wire-cost", 1, task.batch_size, local_epochs=epochs),
        ModelSection(task.model.name, task.model.args, cuts),
        optimizer_section(task.optimizer),
        FleetSection(copies, 1, start_timeout_s=120.0),
    )
    click.echo(f"a short run of {task.model.name}, cut at {cuts[0]} and {cuts[1]}, for what a byte costs", err=True)
    observed = asyncio.run(observe(job, SHARD_BATCHES, engine, task.threads))
    if observed.summary["state"] != "done":
        raise MeasurementError(f"the run that was to say what a byte costs failed: {observed.summary['reason']}{HELP}")
    return observed.steady(warm, epochs * SHARD_BATCHES * copies - copies, "node-1")


def _cost(profile: Profile, cuts: tuple[int, int], first: Sample, end: Sample) -> WireCost:
    """What the ends' event loops and codecs, and the broker, took for what crossed the cuts meanwhile."""
    batches = rate(first, end, "node-1") * (end.at - first.at)
    ends = broker = 0.0
    for name, reading in end.readings.items():
        spent = reading - first.readings[name]
        if name == "broker":
            broker = spent.total_s
        elif name != ORCHESTRATOR:
            ends += spent.loop_s + end.coding.get(name, 0.0) - first.coding.get(name, 0.0)
    # Either way over each cut; whatever crosses has two ends.
    gigabytes = 2 * sum(profile.blocks[cut - 1].output_bytes for cut in cuts) * batches / 1e9
    return WireCost(ends / gigabytes / 2, broker / gigabytes)
