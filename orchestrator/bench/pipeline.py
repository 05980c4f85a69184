"""`mpsl bench pipeline`: how busy the slowest hop is, with devices that take their time behind a link of their own."""

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from broker.address import parse_broker
from broker.connection import connect
from broker.engines.engine import running_broker
from broker.options import Network
from broker.slow_link import parse_link
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.nn.models import arguments
from mpsl.topics import Topics
from orchestrator.bench.agents import start_agents
from orchestrator.bench.this_machine import CIFAR
from orchestrator.commands.train import orchestrate
from orchestrator.job_file import check_job
from orchestrator.processes import children

Telemetry = dict[str, list[tuple[int, float, float]]]
"""Of each node: steps so far, when the last one was, seconds that the worker was busy until the telemetry was sent."""


@dataclass(frozen=True)
class Setting:
    """The system to fill."""

    model: str
    batch_size: int
    hops: int
    batches: int
    think_ms: float
    link: str

    def job(self, devices: int) -> Job:
        """One round for so many devices, all admitted, so that their number alone fills the pipeline."""
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
@click.option("--batches", type=click.IntRange(2), default=16, show_default=True, help="Of each device.")
@click.option(
    "--think-ms", type=click.FloatRange(0.0), default=100.0, show_default=True, help="Of a device, each batch."
)
@click.option(
    "--link", default="200mbit/5ms", show_default=True, help="Of all devices together; none: no emulated link."
)
def command(
    model: str, batch_size: int, counts: tuple[int, ...], hops: int, batches: int, think_ms: float, link: str
) -> None:
    """Measure the slowest hop's busy share between its first and last batch; prints one JSON object last."""
    setting = Setting(model, batch_size, hops, batches, think_ms, link)
    check_job(setting.job(max(counts)), "pipeline")
    if link != "none":
        parse_link(link)
    rows = []
    for devices in counts:
        shares = busy_shares(asyncio.run(_observe(setting, devices)))
        if not shares:
            raise click.ClickException("the round was too short to see a node at work; raise --batches")
        busiest = max(shares, key=lambda node: shares[node])
        rows.append({"devices": devices, "busiest": busiest, "busy": shares[busiest], "nodes": shares})
        shown = ", ".join(f"{node} {share:.3f}" for node, share in sorted(shares.items()))
        click.echo(f"{devices:3} devices: {shown}", err=True)
    click.echo(json.dumps({"benchmark": "pipeline", **vars(setting), "rows": rows}))


def busy_shares(seen: Telemetry) -> dict[str, float]:
    """Busy seconds over all seconds of each node, from its first look at a step made to the last such look.

    Telemetry comes once a second, so both ends lie within the second that follows the first and the last batch; a look
    after the last one says nothing, for the node has nothing to do any more.
    """
    shares = {}
    for node, looks in seen.items():
        total = max(steps for steps, _, _ in looks)
        inside = [(at, busy) for steps, at, busy in looks if 0 < steps < total]
        if len(inside) > 1:
            (began, busy_before), (ended, busy_after) = inside[0], inside[-1]
            shares[node] = (busy_after - busy_before) / (ended - began)
    return shares


async def _observe(setting: Setting, devices: int) -> Telemetry:
    """One round; raises ClickException where the run fails."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPSL_PASSWORD_FILE": ""}
    seen: Telemetry = {}
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory, job = Path(name), setting.job(devices)
        async with running_broker("auto") as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads", "1"]
            for number in range(1, setting.hops + 1):
                await group.start(f"node-{number}", ["node", "--id", f"node-{number}", *shared], environment)
            slow = ["--think-ms", str(setting.think_ms), *(["--link", setting.link] if setting.link != "none" else [])]
            await start_agents(group, job, setting.batches, directory, [*shared, *slow], environment)
            network = Network(parse_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with _listening(seen, network):
                summary = await group.attend(orchestrate(network, job, directory / "out"))
            if summary["state"] != "done":
                raise click.ClickException(f"{devices} devices: {summary['reason']}")
    return seen


@contextlib.asynccontextmanager
async def _listening(seen: Telemetry, network: Network) -> AsyncIterator[None]:
    """Note the nodes' telemetry, with the time at which it came, while the block lasts."""

    async def listen() -> None:
        async with connect(network.address, f"mpsl-bench-{time.monotonic_ns()}") as connection:
            await connection.subscribe((network.topics.participant("node", "+", "tele"),))
            async for topic, payload, _ in connection.messages():
                telemetry = json.loads(bytes(payload))
                look = (telemetry["steps"], time.monotonic(), telemetry["busy_s"])
                seen.setdefault(topic.split("/")[4], []).append(look)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
