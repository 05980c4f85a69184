"""Observes a whole local system with real processes, a real broker and synthetic data, and finds its steady state."""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from broker.address import BrokerAddress, own_broker
from broker.connection import connect
from broker.engines.engine import running_broker
from broker.options import OWN_BROKER, NetworkOptions
from mpsl.allowed_models import options_for
from mpsl.job import Job
from mpsl.nn.block_model import block_model
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.process_readings import CpuSeconds, peak_resident, read_process
from orchestrator.processes import children

ORCHESTRATOR = "orchestrator"
"""The name of this process, which runs the orchestrator and samples the others."""


@dataclass
class Sample:
    """One sample of all processes: time, CPU of each, and the last telemetry about steps and coding seconds."""

    at: float
    readings: dict[str, CpuSeconds]
    steps: dict[str, tuple[int, float]]
    coding: dict[str, float]


@dataclass
class Observed:
    """A run and its samples; `peaks` in bytes."""

    summary: dict[str, Any]
    samples: list[Sample]
    peaks: dict[str, int] = field(default_factory=dict)

    def steady(self, warm_batches: int, last_batches: int, node: str) -> tuple[Sample, Sample] | None:
        """The samples between which the pipeline was full: `warm_batches` to `last_batches` steps of `node`."""
        inside = [s for s in self.samples if node in s.steps and warm_batches <= s.steps[node][0] <= last_batches]
        return (inside[0], inside[-1]) if len(inside) > 1 and inside[-1].steps[node] != inside[0].steps[node] else None


def rate(first: Sample, end: Sample, node: str) -> float:
    """Batches per second that `node` stepped, by its own clock."""
    (steps, began), (steps_end, ended) = first.steps[node], end.steps[node]
    return (steps_end - steps) / (ended - began)


def synthetic_shards(job: Job, batches: int, devices: int, directory: Path) -> dict[str, Path]:
    """Shards of random data for `batches` whole batches each, written to `directory`."""
    chance = np.random.default_rng(0)
    model = block_model(job.model)
    shape, classes = model.sample.shape, model.classes
    samples = batches * job.run.batch_size
    found = {}
    for number in range(1, devices + 1):
        path = directory / f"dev-{number}.npz"
        np.savez(
            path, x=chance.standard_normal((samples, *shape), dtype=np.float32), y=chance.integers(0, classes, samples)
        )
        found[path.stem] = path
    return found


async def observe(job: Job, batches: int, engine: str, threads: int, every_s: float = 0.25) -> Observed:
    """Run `job` on synthetic data, with `batches` a device and round, and sample all processes.

    Broker, nodes and devices are processes of their own. Nodes and devices have `threads` threads each. The
    orchestrator runs in this process, so the CPU time of sampling counts as the orchestrator's.
    """
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **OWN_BROKER}
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory = Path(name)
        shards = synthetic_shards(job, batches, job.fleet.devices, directory)
        async with running_broker(engine) as broker, children() as group:
            shared = ["--broker", broker.url, "--threads", str(threads), "--once", *options_for(job.model.name)]
            pids = {"broker": broker.pid, ORCHESTRATOR: os.getpid()}
            for number in range(1, job.fleet.nodes + 1):
                child = await group.start(f"node-{number}", ["node", "--id", f"node-{number}", *shared], environment)
                pids[child.name] = child.process.pid
            for id, path in shards.items():
                child = await group.start(id, ["device", "--id", id, "--data", str(path), *shared], environment)
                pids[child.name] = child.process.pid
            address = own_broker(broker.url)
            network = NetworkOptions(address, Topics("main"), as_json=False, verbose=0)
            watch = _Watch(pids, address, network.topics)
            async with watch.running(every_s):
                summary = await group.attend(orchestrate(replace(network), job, directory / "out"))
            return Observed(summary, watch.samples, watch.peaks)


class _Watch:
    """Samples the processes and listens to everyone's telemetry."""

    def __init__(self, pids: dict[str, int], address: BrokerAddress, topics: Topics) -> None:
        self.samples: list[Sample] = []
        self.peaks: dict[str, int] = {}
        self._pids = pids
        self._address = address
        self._filters = topics.participant("node", "+", "tele"), topics.participant("dev", "+", "tele")
        self._steps: dict[str, tuple[int, float]] = {}
        self._coding: dict[str, float] = {}

    @contextlib.asynccontextmanager
    async def running(self, every_s: float) -> Any:
        """Watch while the block lasts."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._sample(every_s))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        async with connect(self._address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
            await connection.subscribe(self._filters)
            async for topic, payload, *_ in connection.messages():
                telemetry = json.loads(bytes(payload))
                _, _, _, branch, id, _ = topic.split("/")
                self._coding[id] = telemetry["coding_s"]
                if branch == "node":
                    self._steps[id] = (telemetry["steps"], telemetry["stepped_at"])

    async def _sample(self, every_s: float) -> None:
        while True:
            readings = {name: read_process(pid) for name, pid in self._pids.items()}
            self.samples.append(Sample(time.perf_counter(), readings, dict(self._steps), dict(self._coding)))
            self.peaks |= {name: max(self.peaks.get(name, 0), peak_resident(pid)) for name, pid in self._pids.items()}
            await asyncio.sleep(every_s)
