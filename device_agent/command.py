"""`mpsl device`: runs one device as a service, or several in one process, until SIGTERM or, with --once, for a run."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from broker.options import NetworkOptions, default_id, network_options
from broker.own_certificate import own_id
from broker.slow_link import parse_link
from device_agent.shard_source import Shard, load_shard
from mpsl import strict_json
from mpsl.allowed_models import HELP, allowed_models
from mpsl.errors import UsageError
from mpsl.machines.effects import Stop
from mpsl.names import check_id


@click.command()
@network_options
@click.option("--id", "id", help="Id of this device.  [default: HOST-device]")
@click.option("--data", required=True, metavar="SHARD", help="shard.npz, or package.module:function that returns one.")
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="Run N devices in this process, named after the files in --data DIR.",
)
@click.option("--link", metavar="RATE/LATENCY", help="Emulate a slow link to the broker, such as 8mbit/20ms.")
@click.option(
    "--think-ms",
    type=click.FloatRange(0.0),
    default=0.0,
    help="Emulate a slower processor: extra milliseconds for each batch.",
)
@click.option("--models", multiple=True, metavar="PATTERN", help=HELP)
@click.option("--once", is_flag=True, help="Leave after one run, with its exit status.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.  [default: torch's own choice]")
def device(
    *,
    network: NetworkOptions,
    id: str | None,
    data: str,
    count: int | None,
    link: str | None,
    think_ms: float,
    models: tuple[str, ...],
    once: bool,
    threads: int | None,
) -> int:
    """Take part in runs with the data in SHARD, which never leaves this machine."""
    allowed = allowed_models(models)
    if link:
        network = replace(network, address=replace(network.address, link=parse_link(link)))
    if count is None:
        shards = {own_id(network.member, id, default_id("device"), "device"): load_shard(data)}
    elif id is not None:
        raise UsageError("--id names one device; with --count the ids are the names of the files in --data")
    else:
        shards = shards_in(Path(data), count)
    from device_agent.agents import serve
    from mpsl.nn.allocation import keep_for_reuse

    keep_for_reuse()
    stops = asyncio.run(serve(network, shards, once, threads, think_ms / 1e3, allowed))
    return report(network, stops, count is not None)


def report(network: NetworkOptions, stops: Mapping[str, Stop], several: bool) -> int:
    """Report how the devices ended. Returns the highest of their exit statuses."""
    worst = max(stop.status for stop in stops.values())
    outcomes = [{"id": id, "status": stop.status, "reason": stop.reason} for id, stop in stops.items()]
    if network.as_json:
        print(strict_json.dumps({"status": worst, "devices": outcomes} if several else outcomes[0]))
    for id, stop in stops.items():
        if stop.status and stop.reason:
            print(f"Error: {f'{id}: ' if several else ''}{stop.reason}", file=sys.stderr)
    return worst


def shards_in(directory: Path, count: int) -> dict[str, Shard]:
    """Return the first `count` shards of DIRECTORY/*.npz in the order of their names, by id. Raises UsageError."""
    if not directory.is_dir():
        raise UsageError(f"--data {directory}: with --count it is a directory of .npz files; `mpsl data` makes one")
    paths = sorted(directory.glob("*.npz"))
    if len(paths) < count:
        raise UsageError(f"--count {count}: {directory} holds {len(paths)} .npz files; one is needed for each device")
    return {check_id(path.stem, str(path)): load_shard(str(path)) for path in paths[:count]}
