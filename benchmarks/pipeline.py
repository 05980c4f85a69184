"""`mpsl bench pipeline`: how busy the slowest hop is, with slow devices that each have an emulated link."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.following import following
from benchmarks.random_devices import start_agents
from benchmarks.spread import extremes, medians
from benchmarks.this_machine import CIFAR
from broker.address import own_broker
from broker.engines.engine import running_broker
from broker.options import OWN_BROKER, NetworkOptions
from broker.slow_link import parse_link
from mpsl import strict_json
from mpsl.errors import MpslError, RunFailed
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.nn.models import arguments
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.job_file import check_job
from orchestrator.locally import node_ids
from orchestrator.processes import children


@dataclass(frozen=True)
class PipelineSetting:
    """The system to measure."""

    model: str
    batch_size: int
    hops: int
    batches: int
    think_ms: float
    link: str

    def job(self, devices: int) -> Job:
        """Return a job of one round. All devices are admitted, so that only their number limits the pipeline."""
        args: dict[str, Any] = {key: value for key, value in CIFAR.items() if key in arguments(self.model)}
        return Job(
            RunSection("pipeline", 1, self.batch_size),
            ModelSection(self.model, args),
            OptimizerSection("sgd", 0.01, momentum=0.9),
            FleetSection(devices, self.hops, admit=devices, start_timeout_s=300.0),
        )


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--devices", "counts", multiple=True, type=click.IntRange(1), default=(1, 2, 4, 8), show_default=True)
@click.option("--hops", type=click.IntRange(1), default=2, show_default=True)
@click.option("--batches", type=click.IntRange(2), default=16, show_default=True, help="Batches of each device.")
@click.option(
    "--think-ms",
    type=click.FloatRange(0.0),
    default=100.0,
    show_default=True,
    help="Extra time of a device for each batch.",
)
@click.option("--link", default="200mbit/5ms", show_default=True, help="Link of each device; none: no emulated link.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
def command(
    model: str, batch_size: int, counts: tuple[int, ...], hops: int, batches: int, think_ms: float, link: str,
    repeats: int,
) -> None:  # fmt: skip
    """Measure the busy share of the slowest hop between its first and last batch. Prints one JSON object last."""
    setting = PipelineSetting(model, batch_size, hops, batches, think_ms, link)
    check_job(setting.job(max(counts)), "pipeline")
    if link != "none":
        parse_link(link)
    found: dict[int, list[dict[str, float]]] = {devices: [] for devices in counts}
    for number in range(1, repeats + 1):
        for devices, runs in found.items():
            try:
                shares = busy_shares(asyncio.run(_observe(setting, devices)))
            except MpslError as error:
                click.echo(f"{number}: {devices:3} devices: not measured: {error}", err=True)
                continue
            runs.append(shares)
            click.echo(f"{number}: {devices:3} devices: {_shown(shares)}", err=True)
    rows = [_row(devices, runs) for devices, runs in found.items() if runs]
    if not rows:
        raise click.ClickException("nothing could be measured")
    for row in rows:
        click.echo(f"{row['devices']:3} devices, median of {row['runs']}: {_shown(row['nodes'])}", err=True)
    click.echo(strict_json.dumps({"benchmark": "pipeline", **vars(setting), "repeats": repeats, "rows": rows}))


def busy_shares(telemetry: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the busy share of each node between its first batch and its last step, from its last telemetry."""
    return {
        node: said["batches_busy_s"] / (said["stepped_at"] - said["began_at"])
        for node, said in sorted(telemetry.items())
    }


def _row(devices: int, runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    nodes = medians(runs)
    busiest = max(nodes, key=lambda node: nodes[node])
    return {
        "devices": devices,
        "busiest": busiest,
        "busy": nodes[busiest],
        "nodes": nodes,
        "spread": extremes(runs),
        "runs": len(runs),
    }


def _shown(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{node} {share:.3f}" for node, share in shares.items())


async def _observe(setting: PipelineSetting, devices: int) -> Mapping[str, Mapping[str, Any]]:
    """Run one round. Returns the last telemetry of its nodes. Raises RunFailed."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory, job = Path(name), setting.job(devices)
        async with running_broker("auto") as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads", "1"]
            nodes = node_ids(setting.hops)
            for node in nodes:
                await group.start(node, ["node", "--id", node, *shared], environment)
            slow = ["--think-ms", str(setting.think_ms), *(["--link", setting.link] if setting.link != "none" else [])]
            await start_agents(group, job, setting.batches, directory, [*shared, *slow], environment)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with following(network, nodes) as followed:
                summary = await group.attend(orchestrate(network, job, directory / "out"))
                if summary["state"] != "done":
                    raise RunFailed(summary["reason"])
    return followed.telemetry
