"""`mpsl bench wire`: bytes on a device's link and final accuracy for each pair of codecs, and the cost of a slow link.

There are two tasks. Each trains one job after another on a fleet of real processes with a real broker. Bytes come from
the runs' own summaries: MQTT payloads with headers, acknowledgements and weights, without evaluations.
"""

import asyncio
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from broker.address import own_broker
from broker.engines.engine import running_broker
from broker.engines.engine_option import engine_option
from broker.hardware import usable_cores
from broker.options import OWN_BROKER, NetworkOptions
from broker.slow_link import parse_link
from mpsl import strict_json
from mpsl.codecs import parse
from mpsl.errors import RunFailed, UsageError
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection, WireSection
from mpsl.topics import Topics
from orchestrator import datasets, shards
from orchestrator.commands.train import orchestrate
from orchestrator.datasets import Dataset, Samples
from orchestrator.processes import children

REFERENCE_CODECS = "fp32/fp32"
CODECS = (
    "fp16/fp16,bf16/bf16,int8/int8,int4/int4,huffman:4/huffman:4,huffman:3/huffman:3,"
    "huffman:2/huffman:2,affine:3/topk:0.1"
)
TRAINING, HELD_OUT = 1500, 2000
"""The number of Fashion-MNIST samples, the first ones of each file."""
MIN_LOSS = 0.005
"""The maximum loss of accuracy of the best codec."""
GOAL_ACCURACY = 0.95
RACE_ROUNDS = 6
"""The number of rounds within which a run must reach the goal."""


@dataclass(frozen=True)
class Task:
    """A job to train with every codec, and its data."""

    name: str
    shown: str
    model: ModelSection
    optimizer: OptimizerSection
    run: RunSection
    devices: int

    @property
    def hops(self) -> int:
        """The number of hops of the job."""
        return len(self.model.cuts or ()) - 1

    def dataset(self) -> Dataset:
        """Return the data set. It is the same for every codec and seed."""
        if self.name == "digits":
            return datasets.load("digits", 0)
        whole = datasets.load("fashion-mnist", 0)
        return Dataset(
            _halved(whole.x[:TRAINING]), whole.y[:TRAINING], _halved(whole.x_test[:HELD_OUT]), whole.y_test[:HELD_OUT]
        )

    def job(self, codecs: str, seed: int, evaluate_every: int) -> Job:
        """Return the job with activations and gradients in these codecs."""
        activations, _, gradients = codecs.partition("/")
        run = replace(self.run, seed=seed, evaluate_every=evaluate_every)
        fleet = FleetSection(self.devices, self.hops, start_timeout_s=120.0)
        return Job(run, self.model, self.optimizer, fleet, WireSection(activations, gradients))


TASKS = [
    Task(
        "digits",
        "digits-cnn on the 1437 digits, 360 held out; 4 devices, 2 hops, 12 rounds of 2 local epochs",
        ModelSection("digits-cnn", {}, (2, 5, 8)),
        OptimizerSection("adam", 0.003),
        RunSection("wire-digits", 12, 32, local_epochs=2),
        4,
    ),
    Task(
        "fashion-mnist",
        f"resnet18 on the first {TRAINING} of Fashion-MNIST, halved to 14×14, the first {HELD_OUT} held out; "
        "2 devices, 2 hops, 6 rounds",
        ModelSection("resnet18", {"num_classes": 10, "in_channels": 1, "image_size": 14}, (1, 5, 9)),
        OptimizerSection("adam", 0.001),
        RunSection("wire-fashion", 6, 32),
        2,
    ),
]
RACED = TASKS[0]
"""The task that is trained behind the slow link."""


@click.command()
@click.option("--codecs", default=CODECS, help="ACTIVATIONS/GRADIENTS,…; fp32/fp32 always comes first.")
@click.option(
    "--task",
    "names",
    multiple=True,
    type=click.Choice([task.name for task in TASKS]),
    help="Data set to train on; may be given several times.  [default: all]",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="Only the digits, one seed, and no slow link.")
@click.option(
    "--slow-link",
    default="8mbit/20ms",
    show_default=True,
    metavar="RATE/LATENCY",
    help="Speed of the devices' links in the last part.",
)
@engine_option()
def command(codecs: str, names: tuple[str, ...], seeds: int, quick: bool, slow_link: str, engine: str) -> None:
    """Train with each pair of codecs. Prints one JSON object last."""
    parse_link(slow_link)
    pairs = [REFERENCE_CODECS, *(pair for pair in _pairs(codecs) if pair != REFERENCE_CODECS)]
    tasks = TASKS[:1] if quick else [task for task in TASKS if task.name in names or not names]
    seeds = 1 if quick else seeds
    # Load the data before anything runs, so that a missing data set is reported at once.
    data = {task.name: task.dataset() for task in TASKS if task in tasks or task is RACED}
    found: dict[str, Any] = {"benchmark": "wire", "cores": usable_cores(), "seeds": seeds, "tasks": {}}
    for task in tasks:
        click.echo(f"\n{task.shown}; batch {task.run.batch_size}; {seeds} seeds", err=True)
        compared = asyncio.run(_compare(task, data[task.name], pairs, seeds, engine))
        found["tasks"][task.name] = {"task": task.shown, "codecs": compared}
    best = _best(pairs, [entry["codecs"] for entry in found["tasks"].values()])
    found["best"] = best
    if not quick:
        click.echo(f"\ndigits over {slow_link} for each device: seconds of training to {GOAL_ACCURACY:.0%}", err=True)
        chosen = list(dict.fromkeys([REFERENCE_CODECS, best]))
        raced = asyncio.run(_race(data[RACED.name], chosen, seeds, engine, slow_link))
        found["slow_link"] = {"link": slow_link, "codecs": raced}
    click.echo(strict_json.dumps(found))


def _pairs(codecs: str) -> list[str]:
    pairs = [pair.strip() for pair in codecs.split(",") if pair.strip()]
    for pair in pairs:
        activations, slash, gradients = pair.partition("/")
        if not slash:
            raise UsageError(f"--codecs {pair!r}: write ACTIVATIONS/GRADIENTS, as in int8/int8")
        parse(activations)
        parse(gradients)
    return pairs


async def _compare(task: Task, data: Dataset, pairs: Sequence[str], seeds: int, engine: str) -> dict[str, Any]:
    """Return the bytes per sample and the accuracy of each pair."""
    found: dict[str, Any] = {}
    click.echo(_HEAD, err=True)
    async with _fleet(task, data, engine) as train:
        for pair in pairs:
            summaries = [await train(task.job(pair, seed, task.run.rounds)) for seed in range(seeds)]
            found[pair] = _measured(summaries, task.run.local_epochs)
            found[pair] |= _against(found[pair], found[REFERENCE_CODECS])
            click.echo(_line(pair, found[pair]), err=True)
    return found


async def _race(data: Dataset, pairs: Sequence[str], seeds: int, engine: str, link: str) -> dict[str, Any]:
    """Return the seconds until the digits reach GOAL_ACCURACY: rounds from opening to commit, without evaluations.

    The pairs alternate, because the speed of a shared machine drifts.
    """
    seconds: dict[str, list[float | None]] = {pair: [] for pair in pairs}
    async with _fleet(RACED, data, engine, ["--link", link]) as train:
        for seed in range(seeds):
            for pair in pairs:
                job = RACED.job(pair, seed, 1)
                job = replace(job, run=replace(job.run, rounds=RACE_ROUNDS))
                rounds = (await train(job))["rounds"]
                reached = next((number for number, r in enumerate(rounds, 1) if r["accuracy"] >= GOAL_ACCURACY), None)
                seconds[pair].append(sum(r["seconds"] for r in rounds[:reached]) if reached else None)
    found: dict[str, Any] = {}
    for pair, each in seconds.items():
        whole = [s for s in each if s is not None]
        found[pair] = {"seconds": each, "median": statistics.median(whole) if whole else None}
        click.echo(f"{pair:<22} {', '.join('never' if s is None else f'{s:.1f} s' for s in each)}", err=True)
    return found


@asynccontextmanager
async def _fleet(task: Task, data: Dataset, engine: str, device_options: Sequence[str] = ()) -> AsyncIterator[Any]:
    """Start broker, nodes and devices as processes with one thread each. Yields a function that trains a job."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    with tempfile.TemporaryDirectory(prefix="mpsl-wire-") as name:
        directory = Path(name)
        shards.write(shards.split(data, task.devices, 0), directory)
        async with running_broker(engine) as broker, children() as group:
            shared = ["--broker", broker.url, "--threads", "1"]
            for number in range(1, task.hops + 1):
                await group.start(f"node-{number}", ["node", "--id", f"node-{number}", *shared], environment)
            for path in sorted(directory.glob("*.npz")):
                arguments = ["device", "--id", path.stem, "--data", str(path), *shared, *device_options]
                await group.start(path.stem, arguments, environment)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)

            async def train(job: Job) -> dict[str, Any]:
                summary = await group.attend(orchestrate(network, job, directory / "out"))
                if summary["state"] != "done":
                    raise RunFailed(f"{job.wire.activations}/{job.wire.gradients}: {summary['reason']}")
                return summary

            yield train


def _halved(x: Samples) -> Samples:
    """Return the means of 2×2 pixels."""
    count, channels, height, width = x.shape
    return np.ascontiguousarray(x.reshape(count, channels, height // 2, 2, width // 2, 2).mean((3, 5)))


def _measured(summaries: Sequence[Mapping[str, Any]], local_epochs: int) -> dict[str, Any]:
    # The last round's bytes include the evaluation.
    rounds = [each for summary in summaries for each in summary["rounds"][:-1]]
    samples = sum(each["samples"] for each in rounds) * local_epochs
    accuracies = [summary["accuracy"] for summary in summaries]
    return {
        "up": sum(each["bytes"]["device_up"] for each in rounds) / samples,
        "down": sum(each["bytes"]["device_down"] for each in rounds) / samples,
        "accuracy": statistics.mean(accuracies),
        "spread": max(accuracies) - min(accuracies),
        "accuracies": accuracies,
    }


def _against(measured: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, float]:
    return {
        "fewer_up": plain["up"] / measured["up"],
        "fewer_down": plain["down"] / measured["down"],
        "fewer": (plain["up"] + plain["down"]) / (measured["up"] + measured["down"]),
        "points": 100 * (measured["accuracy"] - plain["accuracy"]),
    }


def _best(pairs: Sequence[str], tasks: Sequence[Mapping[str, Any]]) -> str:
    """Return the pair with the fewest bytes that costs no task more than MIN_LOSS of its accuracy."""
    sound = [pair for pair in pairs if all(task[pair]["points"] >= -100 * MIN_LOSS for task in tasks)]
    return max(sound, key=lambda pair: min(task[pair]["fewer"] for task in tasks))


_HEAD = (
    f"{'activations/gradients':<22} {'up B':>7} {'down B':>7} {'fewer':>20} {'accuracy':>9} {'points':>7} {'spread':>7}"
)


def _line(pair: str, measured: Mapping[str, Any]) -> str:
    fewer = f"{measured['fewer_up']:.1f}/{measured['fewer_down']:.1f}/{measured['fewer']:.1f}×"
    return (
        f"{pair:<22} {measured['up']:>7.0f} {measured['down']:>7.0f} {fewer:>20} {measured['accuracy']:>9.2%} "
        f"{measured['points']:>+7.2f} {100 * measured['spread']:>7.2f}"
    )
