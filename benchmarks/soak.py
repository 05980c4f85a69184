"""`mpsl bench soak`: many rounds of a small job, and what every process holds in the meantime. Nothing may grow."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.random_devices import start_agents
from broker.address import own_broker
from broker.connection import connect
from broker.engines.engine import running_broker
from broker.options import OWN_BROKER, NetworkOptions
from mpsl import strict_json
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.process_readings import open_files, resident
from orchestrator.processes import children

DEVICES, NODES, BATCHES = 4, 2, 2
WARM_SHARE = 0.2
"""The share of the rounds at the start that do not count: memory grows to what the work needs."""
MAX_GROWTH_MB = 8.0
"""Growth of a process over all rounds that count which is still noise: the pages of allocators come in portions."""


@dataclass
class Held:
    """What each process holds after one round."""

    round: int
    memory_mb: dict[str, float]
    files: dict[str, int]
    tasks: int
    """Tasks of the orchestrator's event loop, which is this process."""


@dataclass
class Soaked:
    """Readings after each round, and the retained topics of the run at the end."""

    held: list[Held] = field(default_factory=list)
    retained: list[str] = field(default_factory=list)

    def growth(self) -> dict[str, Any]:
        """Return what has grown from the first round that counts to the last one: medians of a tenth of the rounds."""
        counted = self.held[int(len(self.held) * WARM_SHARE) :]
        share = max(1, len(counted) // 10)
        first, last = counted[:share], counted[-share:]
        names = counted[0].memory_mb
        return {
            "memory_mb": {name: _median(last, name) - _median(first, name) for name in names},
            "files": {name: last[-1].files[name] - first[0].files[name] for name in names},
            "tasks": last[-1].tasks - first[0].tasks,
        }


def _median(ends: Sequence[Held], name: str) -> float:
    return sorted(end.memory_mb[name] for end in ends)[len(ends) // 2]


def too_much(growth: Mapping[str, Any], retained: Sequence[str]) -> list[str]:
    """Return what has grown beyond noise, in words."""
    found = [f"{name}: {mb:.1f} MB more" for name, mb in growth["memory_mb"].items() if mb > MAX_GROWTH_MB]
    found += [f"{name}: {count} open files more" for name, count in growth["files"].items() if count > 0]
    found += [f"orchestrator: {growth['tasks']} tasks more"] * (growth["tasks"] > 0)
    return found + [f"retained: {topic}" for topic in retained]


@click.command()
@click.option("--rounds", type=click.IntRange(10), default=200, show_default=True)
@click.option("--engine", type=click.Choice(["auto", "mosquitto", "embedded"]), default="auto", show_default=True)
def command(*, rounds: int, engine: str) -> None:
    """Run many rounds and compare what the processes hold. Prints one JSON object last; status 1 if something grows."""
    soaked = asyncio.run(_observe(rounds, engine))
    growth = soaked.growth()
    found = too_much(growth, soaked.retained)
    last = soaked.held[-1]
    for name, mb in last.memory_mb.items():
        click.echo(
            f"{name}: {mb:.0f} MB ({growth['memory_mb'][name]:+.1f}), {last.files[name]} open files "
            f"({growth['files'][name]:+d})", err=True
        )  # fmt: skip
    click.echo(f"{len(soaked.held)} rounds; grown: {', '.join(found) or 'nothing'}", err=True)
    result = {"benchmark": "soak", "rounds": rounds, "engine": engine, "growth": growth, "grown": found}
    click.echo(strict_json.dumps(result | {"memory_mb": last.memory_mb, "files": last.files}))
    if found:
        raise SystemExit(1)


async def _observe(rounds: int, engine: str) -> Soaked:
    """Run the job. Raises ClickException if it fails."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    job = Job(
        RunSection("soak", rounds, 16, evaluate_every=rounds),
        ModelSection("digits-cnn"),
        OptimizerSection("sgd", 0.01),
        FleetSection(DEVICES, NODES, start_timeout_s=300.0, expected_failure_s=1.0),
    )
    soaked = Soaked()
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory = Path(name)
        async with running_broker(engine) as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--threads", "1"]
            pids = {"broker": broker.pid, "orchestrator": os.getpid()}
            for number in range(1, NODES + 1):
                child = await group.start(f"node-{number}", ["node", "--id", f"node-{number}", *shared], environment)
                pids[child.name] = child.process.pid
            pids |= await start_agents(group, job, BATCHES, directory, shared, environment, DEVICES)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with _reading(soaked, pids, network):
                summary = await group.attend(orchestrate(network, job, directory / "out"))
            if summary["state"] != "done":
                raise click.ClickException(summary["reason"])
            soaked.retained = await _retained(network)
    return soaked


@contextlib.asynccontextmanager
async def _reading(soaked: Soaked, pids: Mapping[str, int], network: NetworkOptions) -> AsyncIterator[None]:
    """Read what every process holds whenever a round's metrics come, while the block lasts."""

    async def listen() -> None:
        async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
            await connection.subscribe((network.topics.run("+", "metrics"),))
            async for _ in connection.messages():
                memory = {name: resident(pid) / 1e6 for name, pid in pids.items()}
                files = {name: open_files(pid) for name, pid in pids.items()}
                soaked.held.append(Held(len(soaked.held) + 1, memory, files, len(asyncio.all_tasks())))

    task = asyncio.create_task(listen(), name="reading")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _retained(network: NetworkOptions) -> list[str]:
    """Return the retained topics of runs."""
    found: list[str] = []
    async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
        await connection.subscribe((network.topics.run("+", "+"),))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.5):
                async for topic, payload, *_ in connection.messages():
                    if len(payload):
                        found.append(topic)
    return found
