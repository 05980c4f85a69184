"""Devices with random data for a benchmark, many in one process."""

from pathlib import Path

import numpy as np

from mpsl.job import Job
from mpsl.nn.models import describe
from orchestrator.processes import Children

AGENTS = 25
"""Devices in one process by default."""


async def start_agents(
    group: Children,
    job: Job,
    batches: int,
    directory: Path,
    options: list[str],
    environment: dict[str, str],
    agents: int = AGENTS,
) -> dict[str, int]:
    """Start the devices of `job`, each with data for `batches` full batches. Returns the process ids by name."""
    chance = np.random.default_rng(0)
    model = describe(job.model.name, **job.model.args)
    shape, classes = model.input_shape(), model.num_classes
    samples, devices = batches * job.run.batch_size, job.fleet.devices
    pids = {}
    for first in range(0, devices, agents):
        data = directory / f"devices-{first}"
        data.mkdir()
        numbers = range(first + 1, min(first + agents, devices) + 1)
        for number in numbers:
            x = chance.standard_normal((samples, *shape), dtype=np.float32)
            np.savez(data / f"dev-{number}.npz", x=x, y=chance.integers(0, classes, samples))
        count = ["--count", str(len(numbers)), "--data", str(data)]
        child = await group.start(data.name, ["device", *count, *options], environment)
        pids[child.name] = child.process.pid
    return pids
