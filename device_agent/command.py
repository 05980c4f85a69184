"""`mpsl device`: one device as a service; stays after a run until SIGTERM, unless --once."""

import json
import sys

import click

from broker.driver import Driver
from broker.options import Network, default_id, network_options, new_boot
from broker.service import drive, run_service
from device_agent.shard import Shard, load_shard
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Stop
from mpsl.names import check_id
from mpsl.topics import client_id


@click.command()
@network_options
@click.option("--id", "id", help="Who this device is.  [default: the host's name]")
@click.option("--data", required=True, metavar="SHARD", help="shard.npz, or package.module:function that returns one.")
@click.option("--once", is_flag=True, help="Leave after one run, with its exit status.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch.  [default: torch's own choice]")
def device(*, network: Network, id: str | None, data: str, once: bool, threads: int | None) -> int:
    """Take part in runs with the data in SHARD, which never leaves this machine."""
    id = check_id(id or default_id(), "--id")
    shard = load_shard(data)
    stop = run_service(lambda: serve(network, id, shard, once, threads))
    if network.as_json:
        print(json.dumps({"id": id, "status": stop.status, "reason": stop.reason}))
    if stop.status and stop.reason:
        print(f"Error: {stop.reason}", file=sys.stderr)
    return stop.status


async def serve(network: Network, id: str, shard: Shard, once: bool, threads: int | None) -> Stop:
    """One device until it stops."""
    from device_agent.performer import DevicePerformer
    from mpsl.nn.threads import computing_worker, limit_threads

    boot = new_boot()
    info = {
        "samples": shard.samples,
        "test_samples": shard.test_samples,
        "shape": list(shard.x.shape[1:]),
        "threads": limit_threads(threads),
    }
    machine = DeviceMachine(id, boot, network.topics, info, once)
    driver = Driver(
        machine,
        DevicePerformer(id, shard),
        network.address,
        client_id("device", id, boot),
        network.logger(role="device", id=id),
        worker=computing_worker(threads),
    )
    return await drive(driver)
