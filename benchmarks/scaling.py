"""`mpsl bench scaling`: the cost of a batch with few and with many devices, in time and in CPU seconds by role."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from benchmarks.random_devices import start_agents
from benchmarks.spread import extremes, medians, shown, spread
from broker.address import own_broker
from broker.connection import connect
from broker.engines.engine import running_broker
from broker.options import OWN_BROKER, NetworkOptions
from mpsl import strict_json
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.job_file import check_job
from orchestrator.process_readings import read_process, resident
from orchestrator.processes import children

FIGURES = ("seconds_per_batch", "cpu_s_per_batch", "orchestrator_share")
COMPARED = FIGURES[:2]
"""The figures that should not grow with the number of devices."""
FULL_FROM = 8
"""The number of devices from which nodes are busy; with fewer they wait for devices."""


Compared = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""A run and the reference runs just before and after it, because the speed of a shared machine changes over time."""


@dataclass(frozen=True)
class ScalingSetting:
    """One system. Each device has `batches` batches in every round."""

    model: str
    batch_size: int
    hops: int
    batches: int
    rounds: int

    def job(self, devices: int) -> Job:
        """Return the job for a number of devices. The first round warms up; processes may end during the last one."""
        return Job(
            RunSection("scaling", 2 + self.rounds, self.batch_size),
            ModelSection(self.model),
            OptimizerSection("sgd", 0.01, momentum=0.9),
            FleetSection(devices, self.hops, start_timeout_s=300.0),
        )


@dataclass
class RoundReadings:
    """The time and the CPU seconds of every role at the end of each round. `rounds` rounds count."""

    rounds: int
    ends: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    """Resident MB of every role at the end of each round."""
    first_round_s: float = 0.0
    """From the start of the first process until the first round was opened."""

    def row(self, devices: int, batches: int) -> dict[str, Any]:
        """Return the cost of a batch after the first and before the last round, with `batches` batches per round."""
        ends = self.ends[: self.rounds + 1]
        (began, before), (ended, after) = ends[0], ends[-1]
        counted = batches * (len(ends) - 1)
        by_role = {role: (after[role] - before[role]) / counted for role in after}
        total = sum(by_role.values())
        return {
            "devices": devices,
            "seconds_per_batch": (ended - began) / counted,
            "cpu_s_per_batch": total,
            "by_role": by_role,
            "orchestrator_share": by_role["orchestrator"] / total,
            "first_round_s": self.first_round_s,
            "memory_mb": self.memory[: self.rounds + 1],
        }


@click.command()
@click.option("--model", default="digits-cnn", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--devices", "counts", multiple=True, type=click.IntRange(1), default=(2, 8, 32, 128), show_default=True)
@click.option("--hops", type=click.IntRange(1), default=2, show_default=True)
@click.option(
    "--batches", type=click.IntRange(1), default=8, show_default=True, help="Batches of each device in a round."
)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds that count.")
@click.option("--agents", type=click.IntRange(1), default=32, show_default=True, help="Devices in one process.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
def command(
    model: str, batch_size: int, counts: tuple[int, ...], hops: int, batches: int, rounds: int, agents: int,
    repeats: int,
) -> None:  # fmt: skip
    """Measure the time and CPU seconds of a batch for each number of devices. Prints one JSON object last."""
    setting = ScalingSetting(model, batch_size, hops, batches, rounds)
    check_job(setting.job(max(counts)), "scaling")

    def run(number: int, devices: int) -> dict[str, Any]:
        row = asyncio.run(_observe(setting, devices, agents)).row(devices, devices * batches)
        click.echo(f"{number}: {_line(row)}", err=True)
        return row

    reference = compared_with(counts)
    found: dict[int, list[Compared]] = {devices: [] for devices in counts}
    for number in range(1, repeats + 1):
        before = run(number, reference)
        for devices, pairs in found.items():
            if devices == reference:
                pairs.append((before, (before,)))
                continue
            row = run(number, devices)
            after = run(number, reference)
            pairs.append((row, (before, after)))
            before = after
    rows = combined(found)
    for row in rows:
        ratios = ", ".join(f"{figure} {shown(row['ratio'][figure])}" for figure in COMPARED)
        click.echo(f"median: {_line(row)}; to {row['ratio_to']} devices: {ratios}", err=True)
    result = {"benchmark": "scaling", **vars(setting), "agents": agents, "repeats": repeats, "rows": rows}
    click.echo(strict_json.dumps(result))


def compared_with(counts: Sequence[int]) -> int:
    """Return the number of devices to compare with: the smallest of at least FULL_FROM, or else the first."""
    return min((devices for devices in counts if devices >= FULL_FROM), default=counts[0])


def combined(found: Mapping[int, Sequence[Compared]]) -> list[dict[str, Any]]:
    """Return a row for each number of devices: medians, spread, and the ratio to the reference."""
    reference = compared_with(tuple(found))
    rows = []
    for devices, pairs in found.items():
        runs = [run for run, _ in pairs]
        figures = [{figure: run[figure] for figure in FIGURES} for run in runs]
        ratios = {
            figure: [run[figure] / fmean(its[figure] for its in references) for run, references in pairs]
            for figure in COMPARED
        }
        row = {
            "devices": devices,
            **medians(figures),
            "by_role": medians([run["by_role"] for run in runs]),
            "first_round_s": max(run["first_round_s"] for run in runs),
            "memory_mb": runs[-1]["memory_mb"],
            "spread": extremes(figures),
            "ratio_to": reference,
            "ratio": {figure: spread(each) for figure, each in ratios.items()},
        }
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    roles = ", ".join(f"{role} {seconds * 1e3:.2f}" for role, seconds in row["by_role"].items())
    return (
        f"{row['devices']:4} devices: {row['seconds_per_batch'] * 1e3:.2f} ms a batch, "
        f"{row['cpu_s_per_batch'] * 1e3:.2f} ms of CPU ({roles}); orchestrator {row['orchestrator_share']:.1%}; "
        f"first round after {row['first_round_s']:.1f} s; MB after each round: {_memory(row['memory_mb'])}"
    )


def _memory(ends: Sequence[Mapping[str, float]]) -> str:
    return ", ".join(f"{role} {' '.join(f'{end[role]:.0f}' for end in ends)}" for role in (ends[0] if ends else {}))


async def _observe(setting: ScalingSetting, devices: int, agents: int) -> RoundReadings:
    """Run once; this process is only the orchestrator. Raises ClickException if the run fails."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    seen, began = RoundReadings(setting.rounds), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory, job = Path(name), setting.job(devices)
        async with running_broker("auto") as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads", "1"]
            nodes = []
            for number in range(1, setting.hops + 1):
                child = await group.start(f"node-{number}", ["node", "--id", f"node-{number}", *shared], environment)
                nodes.append(child.process.pid)
            devices_pids = await start_agents(group, job, setting.batches, directory, shared, environment, agents)
            roles = {
                "nodes": nodes, "devices": list(devices_pids.values()), "broker": [broker.pid],
                "orchestrator": [os.getpid()],
            }  # fmt: skip
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with _reading(seen, roles, network):
                conducted_at = time.monotonic()
                summary = await group.attend(orchestrate(network, job, directory / "out"))
            if summary["rounds"]:
                seen.first_round_s = conducted_at - began + summary["rounds"][0]["opened_s"]
            if summary["state"] != "done":
                raise click.ClickException(f"{devices} devices: {summary['reason']}")
    if len(seen.ends) <= setting.rounds:
        raise click.ClickException(f"{devices} devices: the ends of the rounds were not seen")
    return seen


@contextlib.asynccontextmanager
async def _reading(seen: RoundReadings, roles: dict[str, list[int]], network: NetworkOptions) -> AsyncIterator[None]:
    """Read the CPU seconds of all processes whenever a round's metrics come, while the block lasts."""

    async def listen() -> None:
        async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
            await connection.subscribe((network.topics.run("+", "metrics"),))
            async for _ in connection.messages():
                spent = {role: sum(read_process(pid).total_s for pid in pids) for role, pids in roles.items()}
                held = {role: sum(resident(pid) for pid in pids) / 1e6 for role, pids in roles.items()}
                seen.ends.append((time.monotonic(), spent))
                seen.memory.append(held)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
