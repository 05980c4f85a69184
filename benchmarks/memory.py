"""`mpsl bench memory`: the memory of a compute node by use, with K/4 and with K devices, in new processes."""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.following import Followed, following
from benchmarks.random_devices import start_agents
from benchmarks.this_machine import CIFAR, parse_cuts
from broker.address import own_broker
from broker.engines.engine import running_broker
from broker.options import OWN_BROKER, NetworkOptions
from broker.sizes import parse_bytes
from mpsl import strict_json
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.nn.models import arguments
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.job_file import check_job
from orchestrator.locally import node_ids
from orchestrator.process_readings import peak_resident
from orchestrator.processes import children

SAMPLE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class MemorySetting:
    """One system to measure. With empty `cuts`, it is cut like a run without cuts. With `admit` None, G is chosen."""

    model: str
    batch_size: int
    hops: int
    memory_budget: str | None
    cuts: tuple[int, ...]
    batches: int
    threads: int
    admit: int | None = None

    def job(self, devices: int) -> Job:
        """Return a job of one round for this number of devices."""
        args: dict[str, Any] = {key: value for key, value in CIFAR.items() if key in arguments(self.model)}
        if self.model == "vgg11":
            args["head"] = "small"
        return Job(
            RunSection("memory", 1, self.batch_size),
            ModelSection(self.model, args, self.cuts or None),
            OptimizerSection("sgd", 0.01, momentum=0.9),
            FleetSection(devices, self.hops, admit=self.admit, start_timeout_s=300.0),
        )


@dataclass
class MemoryReadings:
    """Observations of a run: peaks in bytes by process, the nodes' last telemetry, the plan, and the final G."""

    peaks: dict[str, int] = field(default_factory=dict)
    holders: dict[str, dict[str, int]] = field(default_factory=dict)
    copies: dict[str, int] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    admit_at_end: int = 0
    seconds: float = 0.0

    def take(self, followed: Followed) -> None:
        """Store what a run reported about itself. A node also knows a peak between two samples of its memory."""
        self.admit_at_end = followed.admit
        for node, telemetry in followed.telemetry.items():
            self.copies[node] = telemetry["most_copies"]
            self.holders[node] = telemetry["memory"]
            self.peaks[node] = max(self.peaks.get(node, 0), telemetry["memory"]["resident"])


@click.command()
@click.option("--model", default="vgg19", show_default=True)
@click.option(
    "--devices", type=click.IntRange(4), default=100, show_default=True, help="K; K/4 devices are measured first."
)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--hops", type=click.IntRange(1), default=1, show_default=True)
@click.option("--memory-budget", metavar="SIZE", help="Memory of each node on top of torch, such as 3.5GB.")
@click.option("--cuts", help="Block indices such as 1,18.  [default: the device keeps the first and the last block]")
@click.option("--batches", type=click.IntRange(1), default=2, show_default=True, help="Batches of each device.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of each node.")
def command(
    model: str, devices: int, batch_size: int, hops: int, memory_budget: str | None, cuts: str | None, batches: int,
    threads: int,
) -> None:  # fmt: skip
    """Measure the peak resident memory of every node. Prints one JSON object last."""
    chosen = parse_cuts(cuts, hops) if cuts else ()
    setting = MemorySetting(model, batch_size, hops, memory_budget, chosen, batches, threads)
    check_job(setting.job(devices), "memory")
    if memory_budget:
        parse_bytes(memory_budget, "--memory-budget")
    few, many = (_measured(setting, count) for count in (devices // 4, devices))
    nodes = sorted(many.holders)
    result = {
        "benchmark": "memory",
        **vars(setting),
        "devices": [devices // 4, devices],
        "admit": [few.plan["admit"], many.plan["admit"]],
        "admit_at_end": [few.admit_at_end, many.admit_at_end],
        "copies": [max(few.copies.values()), max(many.copies.values())],
        "peak_bytes": [{node: seen.peaks[node] for node in nodes} for seen in (few, many)],
        "flat": max(many.peaks[node] / few.peaks[node] for node in nodes),
        "holders": many.holders,
        "shortfall": many.plan["shortfall"],
        "seconds": [few.seconds, many.seconds],
        "device_process_peak_bytes": max(peak for name, peak in many.peaks.items() if name.startswith("devices")),
    }
    click.echo(strict_json.dumps(result))


def _measured(setting: MemorySetting, devices: int) -> MemoryReadings:
    seen = asyncio.run(measure(setting, devices))
    click.echo(f"{devices} devices: {table(seen)}", err=True)
    return seen


async def measure(setting: MemorySetting, devices: int) -> MemoryReadings:
    """Run one round with this number of devices. Raises ClickException if the run fails."""
    seen = MemoryReadings()
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory = Path(name)
        job = setting.job(devices)
        async with running_broker("auto") as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads"]
            budget = ["--memory-budget", setting.memory_budget] if setting.memory_budget else []
            pids, nodes = {}, node_ids(setting.hops)
            for node in nodes:
                arguments_of_node = ["node", "--id", node, *shared, str(setting.threads), *budget]
                child = await group.start(node, arguments_of_node, environment)
                pids[child.name] = child.process.pid
            pids |= await start_agents(group, job, setting.batches, directory, [*shared, "1"], environment)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with _watching(seen, pids), following(network, nodes) as followed:
                summary = await group.attend(orchestrate(replace(network), job, directory / "out"))
                if summary["state"] != "done":
                    raise click.ClickException(f"{devices} devices: {summary['reason']}")
            seen.take(followed)
            seen.seconds = summary["rounds"][0]["seconds"]
            seen.plan = json.loads((directory / "out" / "plan.json").read_text(encoding="utf-8"))
    return seen


@contextlib.asynccontextmanager
async def _watching(seen: MemoryReadings, pids: dict[str, int]) -> AsyncIterator[None]:
    """Read the processes' peaks while the block lasts."""

    async def look() -> None:
        while True:
            seen.peaks |= {name: max(seen.peaks.get(name, 0), peak_resident(pid)) for name, pid in pids.items()}
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def table(seen: MemoryReadings) -> str:
    """Return the peak of each use of memory in MB, one line per node."""
    lines = [
        f"G {seen.plan['admit']}, {seen.admit_at_end} at the end, {seen.seconds:.1f} s a round {seen.plan['shortfall']}"
    ]
    for node, holders in sorted(seen.holders.items()):
        shares = ", ".join(f"{holder} {size / 1e6:.0f}" for holder, size in holders.items() if holder != "resident")
        lines.append(
            f"  {node}: peak {seen.peaks[node] / 1e6:.0f} MB, {seen.copies[node]} copies; at most each (MB): {shares}"
        )
    return "\n".join(lines)
