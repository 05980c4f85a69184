"""`mpsl bench slowlink`: a round with a device behind a slow link, whose parts take minutes to load and to upload.

It measures whether such a device can take part, and at what cost. If the device is left out, the benchmark fails.
"""

import asyncio
import contextlib
import math
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from broker.address import own_broker
from broker.engines.engine import running_broker
from broker.engines.engine_option import engine_option
from broker.options import OWN_BROKER, NetworkOptions
from broker.slow_link import parse_link
from broker.watch import watching
from mpsl import strict_json
from mpsl.errors import MeasurementError, RunFailed
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.machines.machine import from_json
from mpsl.topics import Topics
from orchestrator.commands.train import orchestrate
from orchestrator.locally import node_ids
from orchestrator.processes import Children, children

SLOW_DEVICE = "dev-2"
"""The device behind the link; dev-1 and the node are beside the broker."""
HOP_WIDTH = 16
"""The width of the blocks around the hop, so that activations are small."""


@dataclass(frozen=True)
class SlowLinkSetting:
    """The link of the slow device, and bytes of the parts that every device holds."""

    link: str
    part_bytes: int

    @property
    def width(self) -> int:
        """The width of the device's two wide blocks, 64 → width → width → HOP_WIDTH."""
        each = 64 + 1 + HOP_WIDTH + 1
        numbers = self.part_bytes / 4
        return max(1, round((math.sqrt(each**2 + 4 * numbers) - each) / 2))

    @property
    def job(self) -> Job:
        """Return a job of one round with two devices, none of which may be left out."""
        hidden = [self.width, self.width, HOP_WIDTH, HOP_WIDTH]
        return Job(
            RunSection("slowlink", 1, 32),
            ModelSection("mlp", {"hidden": hidden}, cuts=(3, 4)),
            OptimizerSection("sgd", 0.05),
            FleetSection(2, 1, admit=2, quorum=2, start_timeout_s=120.0),
        )

    @property
    def bytes_s(self) -> float:
        """The seconds of the parts over the link: down before the round's batches, up after them."""
        return 2 * self.part_bytes / parse_link(self.link).bytes_per_s


@dataclass
class Heard:
    """The telemetry of the slow device: the times of arrival, and how late each was."""

    count: int = 0
    longest_gap_s: float = 0.0
    _last: float | None = None
    _ages: list[float] = field(default_factory=list)

    def note(self, uptime_s: float, now: float) -> None:
        """Note telemetry that arrived at `now`, sent `uptime_s` after the device's start."""
        self.count += 1
        self._ages.append(now - uptime_s)
        if self._last is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self._last)
        self._last = now

    @property
    def longest_delay_s(self) -> float:
        """How much longer the slowest telemetry was in transit than the fastest."""
        return max(self._ages) - min(self._ages) if self._ages else 0.0


@click.command()
@click.option("--link", "links", multiple=True, default=("1mbit/20ms", "2mbit/20ms"), show_default=True)
@click.option("--megabytes", type=click.FloatRange(0.1), default=16.0, show_default=True, help="Device parts.")
@engine_option()
def command(links: tuple[str, ...], megabytes: float, engine: str) -> None:
    """Train one round with a device behind each LINK. Prints one JSON object last."""
    settings = [SlowLinkSetting(link, round(megabytes * 1e6)) for link in links]
    for setting in settings:
        parse_link(setting.link)
    rows = []
    for setting in settings:
        click.echo(f"{setting.link}: {setting.bytes_s:.0f} s for the bytes alone", err=True)
        row = asyncio.run(observe(setting, engine))
        rows.append(row)
        click.echo(
            f"{setting.link}: {row['seconds']:.1f} s, {row['of_bytes_s']:.3f} of the bytes' time; "
            f"telemetry {row['telemetry']} times, at most {row['longest_gap_s']:.1f} s apart and "
            f"{row['longest_delay_s']:.1f} s late",
            err=True,
        )
    click.echo(strict_json.dumps({"benchmark": "slowlink", "megabytes": megabytes, "rows": rows}))


async def observe(setting: SlowLinkSetting, engine: str) -> dict[str, Any]:
    """Run one round. Returns its figures. Raises RunFailed if the slow device is left out."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory = Path(name)
        async with running_broker(engine) as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads", "1"]
            (node,) = node_ids(1)
            await group.start(node, ["node", "--id", node, *shared], environment)
            await _start_devices(group, setting, directory, shared, environment)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            async with _listening(network) as heard:
                summary = await group.attend(orchestrate(network, setting.job, directory / "out"))
    if summary["state"] != "done":
        raise RunFailed(f"{setting.link}: {summary['reason']}")
    (entry,) = summary["rounds"]
    if not heard.count:
        raise MeasurementError(f"{setting.link}: no telemetry of {SLOW_DEVICE} has arrived")
    return {
        "link": setting.link,
        "seconds": entry["seconds"],
        "bytes_s": setting.bytes_s,
        "of_bytes_s": entry["seconds"] / setting.bytes_s,
        "bytes": entry["bytes"],
        "telemetry": heard.count,
        "longest_gap_s": heard.longest_gap_s,
        "longest_delay_s": heard.longest_delay_s,
    }


async def _start_devices(
    group: Children, setting: SlowLinkSetting, directory: Path, shared: list[str], environment: dict[str, str]
) -> None:
    chance = np.random.default_rng(0)
    for id in ("dev-1", SLOW_DEVICE):
        path = directory / f"{id}.npz"
        x = chance.standard_normal((64, 1, 8, 8), dtype=np.float32)
        np.savez(path, x=x, y=chance.integers(0, 10, 64))
        link = ["--link", setting.link] if id == SLOW_DEVICE else []
        await group.start(id, ["device", "--id", id, "--data", str(path), *shared, *link], environment)


@asynccontextmanager
async def _listening(network: NetworkOptions) -> AsyncIterator[Heard]:
    """Yield the telemetry of the slow device in the run, during the block."""
    heard, clock = Heard(), asyncio.get_running_loop().time

    async def listen() -> None:
        async for _, payload, *_ in connection.messages():
            content = from_json(payload) or {}
            if content.get("run") is not None:
                heard.note(content["uptime_s"], clock())

    filters = (network.topics.participant("dev", SLOW_DEVICE, "tele"),)
    async with watching(network, "bench", filters) as connection:
        listening = asyncio.create_task(listen(), name="listening")
        try:
            yield heard
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
