"""`mpsl node`: runs one compute node as a service. It stays after a run until SIGTERM, unless --once is given."""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click

from broker.driver import Driver
from broker.hardware import cache_directory, machine_info
from broker.options import NetworkOptions, default_id, network_options, new_boot
from broker.own_certificate import own_id
from broker.service import drive, run_service
from broker.sizes import parse_bytes
from broker.slow_link import parse_link
from broker.worker import Worker
from mpsl import strict_json
from mpsl.allowed_models import HELP, REGISTERED_ONLY, AllowedModels, allowed_models
from mpsl.errors import UsageError
from mpsl.machines.effects import Stop
from mpsl.machines.hop import HopMachine
from mpsl.topics import client_id


@click.command()
@network_options
@click.option("--id", "id", help="Id of this node.  [default: HOST-node]")
@click.option(
    "--memory-budget", metavar="SIZE", help="Memory for parts, copies and activations, beside torch, such as 2GiB."
)
@click.option(
    "--scratch",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Directory on a disk for parts that exceed the budget.  [default: /var/tmp]",
)
@click.option("--link", metavar="RATE/LATENCY", help="Emulate a slow link to the broker, such as 8mbit/20ms.")
@click.option("--models", multiple=True, metavar="PATTERN", help=HELP)
@click.option("--once", is_flag=True, help="Leave after one run, with its exit status.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.  [default: torch's own choice]")
def node(
    *,
    network: NetworkOptions,
    id: str | None,
    memory_budget: str | None,
    scratch: Path | None,
    link: str | None,
    models: tuple[str, ...],
    once: bool,
    threads: int | None,
) -> int:
    """Compute a part of the model for the devices of a run."""
    id = own_id(network.member, id, default_id("node"), "node")
    budget = parse_bytes(memory_budget, "--memory-budget") if memory_budget else None
    if link:
        network = replace(network, address=replace(network.address, link=parse_link(link)))
    if scratch is not None:
        _check_scratch(scratch)
    allowed = allowed_models(models)
    stop = run_service(lambda: serve(network, id, budget, scratch, once, threads, allowed))
    if network.as_json:
        print(strict_json.dumps({"id": id, "status": stop.status, "reason": stop.reason}))
    if stop.status and stop.reason:
        print(f"Error: {stop.reason}", file=sys.stderr)
    return stop.status


def _check_scratch(folder: Path) -> None:
    """Raise UsageError if no file can be made in the folder. It is better to fail now than in the middle of a run."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UsageError(f"--scratch {folder}: {error.strerror or error}") from None


async def serve(
    network: NetworkOptions,
    id: str,
    budget: int | None,
    scratch: Path | None,
    once: bool,
    threads: int | None,
    models: AllowedModels = REGISTERED_ONLY,
) -> Stop:
    """Run one compute node until it stops."""
    from compute_node.performer import HopPerformer
    from compute_node.storage import DIRECTORY
    from mpsl.nn.allocation import keep_for_reuse, return_large_at_once
    from mpsl.nn.profiler import Profiler
    from mpsl.nn.threads import computing_worker, limit_threads

    if budget is not None:
        return_large_at_once()
    else:
        keep_for_reuse()
    boot = new_boot()
    machine_is = machine_info(limit_threads(threads))
    info = {"memory_budget": budget, **machine_is}
    profiler = Profiler(time.perf_counter, machine_is["hardware"], machine_is["threads"], cache_directory(), budget)
    machine = HopMachine(id, boot, network.topics, info, once)
    driver = Driver(
        machine,
        HopPerformer(id, scratch or DIRECTORY, profiler, budget, models),
        network.address,
        client_id("node", id, boot),
        network.logger(role="node", id=id),
        worker=Worker(computing_worker(threads)),
    )
    return await drive(driver)
