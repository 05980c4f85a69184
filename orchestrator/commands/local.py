"""`mpsl local`: a job with everything on this machine."""

import asyncio
from pathlib import Path

import click

from broker.options import Network, network_options
from orchestrator.commands.train import report
from orchestrator.job_file import load_job
from orchestrator.locally import LocalFleet, job_for, run_locally, shards_in


@click.command()
@network_options
@click.argument("job", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, metavar="DIR", help="One device per DIR/*.npz.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where model and metrics go."
)
@click.option("--engine", type=click.Choice(["auto", "mosquitto", "embedded"]), default="auto", show_default=True)
@click.option("--memory-budget", metavar="SIZE", help="Of each node: 2GiB.")
def local(*, network: Network, job: Path, data: Path, out: Path, engine: str, memory_budget: str | None) -> int:
    """Run JOB with a broker, its nodes and one device per shard, each its own process here."""
    training = load_job(job)
    fleet = LocalFleet(shards_in(data), training.fleet.nodes, memory_budget)
    training = job_for(training, fleet, str(job))
    return report(network, out, asyncio.run(run_locally(network, training, fleet, out, engine)))
