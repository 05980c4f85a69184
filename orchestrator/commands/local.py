"""`mpsl local`: runs a job with all roles on this machine."""

import asyncio
from pathlib import Path

import click

from broker.engines.engine_option import engine_option
from broker.options import NetworkOptions, own_broker_options
from broker.sizes import parse_bytes
from orchestrator.commands.train import report
from orchestrator.job_file import load_job, load_planned_job
from orchestrator.locally import LocalFleet, check_shards, job_for, node_ids, run_locally, shards_in
from orchestrator.plan_option import plan_option, say_overruled
from orchestrator.run_folder import force_option, run_folder


@click.command()
@own_broker_options
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR", help="One device per DIR/*.npz.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where model and metrics go."
)
@engine_option("auto", help="Broker to start, unless --broker names one.")
@click.option("--memory-budget", metavar="SIZE", help="Memory of each node, such as 2GiB.")
@force_option
@plan_option
def local(
    *,
    network: NetworkOptions,
    job: Path,
    data: Path,
    out: Path,
    engine: str,
    memory_budget: str | None,
    force: bool,
    plan: Path | None,
) -> int:
    """Run JOB here: its nodes, one device for each shard and, without --broker, a broker; each is a process."""
    if memory_budget:
        parse_bytes(memory_budget, "--memory-budget")
    planned = None
    if plan is None:
        training = load_job(job)
        fleet = LocalFleet(shards_in(data), node_ids(training.fleet.nodes), memory_budget)
        training = job_for(training, fleet, str(job))
    else:
        training, planned, overruled = load_planned_job(job, plan)
        say_overruled(plan, overruled)
        fleet = LocalFleet(shards_in(data), [seat.node for seat in planned.seats], memory_budget)
        check_shards(fleet, planned, str(data))
    with run_folder(out, force, may_go_on=True, inputs=[data, job, *([plan] if plan else [])]):
        return report(network, out, asyncio.run(run_locally(network, training, fleet, out, engine, planned)))
