"""`mpsl demo`: trains on real data without any set-up."""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import click

from broker.engines.engine_option import engine_option
from broker.options import NetworkOptions, own_broker_options
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from orchestrator import datasets, shards
from orchestrator.commands.train import report
from orchestrator.job_file import check_job
from orchestrator.locally import LocalFleet, node_ids, run_locally, shards_in
from orchestrator.run_folder import force_option, run_folder

ROUNDS = {"digits": 8, "fashion-mnist": 3}


@click.command()
@own_broker_options
@click.option("--devices", type=click.IntRange(1), default=4, show_default=True)
@click.option("--hops", type=click.IntRange(0), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(1), help="[default: 8 for the digits, 3 for fashion-mnist]")
@click.option("--dataset", type=click.Choice(sorted(ROUNDS)), default="digits", show_default=True)
@click.option("--non-iid", type=float, metavar="ALPHA", help="Split the labels by a Dirichlet distribution.")
@engine_option("embedded", help="Broker to start, unless --broker names one.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where model and metrics go.  [default: runs/demo-TIME]",
)
@force_option
def demo(
    *, network: NetworkOptions, devices: int, hops: int, rounds: int | None, dataset: str, non_iid: float | None,
    engine: str, seed: int, out: Path | None, force: bool,
) -> int:  # fmt: skip
    """Train on real data with devices and compute nodes that are processes of this machine."""
    out = out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    job = demo_job(dataset, devices, hops, rounds or ROUNDS[dataset], seed)
    check_job(job, "demo")
    with run_folder(out, force), tempfile.TemporaryDirectory(prefix="mpsl-demo-") as directory:
        parts = shards.split(datasets.load(dataset, seed), devices, seed, non_iid)
        shards.write(parts, Path(directory))
        samples = sum(len(part.x) for part in parts.values())
        broker = network.address.shown if network.named else engine
        print(
            f"demo: {dataset}, {samples} samples over {devices} devices, {hops} hops, broker {broker}; "
            "each its own process",
            file=sys.stderr,
        )
        fleet = LocalFleet(shards_in(Path(directory)), node_ids(hops))
        return report(network, out, asyncio.run(run_locally(network, job, fleet, out, engine)))


def demo_job(dataset: str, devices: int, hops: int, rounds: int, seed: int) -> Job:
    """The demo's job: a convolutional network, its device part first and last."""
    size = {"digits": 8, "fashion-mnist": 28}[dataset]
    cuts = {0: (), 1: (2, 8), 2: (2, 5, 8)}.get(hops)
    return Job(
        RunSection(f"demo-{dataset}"[:24], rounds, 32, local_epochs=2 if dataset == "digits" else 1, seed=seed),
        ModelSection("digits-cnn", {"image_size": size}, cuts),
        OptimizerSection("adam", 0.001),
        FleetSection(devices, hops),
    )
