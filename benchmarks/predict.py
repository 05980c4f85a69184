"""`mpsl bench predict`: predicted seconds of a round, made before anything runs, compared with real rounds.

It makes one profile per model, writes down all predictions, and then does the runs. Nothing is fitted afterwards.
"""

import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import click

from benchmarks.random_devices import start_agents
from benchmarks.this_machine import BenchmarkModel, Known, fleet_of, measured, rehearsed, slowed, slowness
from broker.address import own_broker
from broker.engines.engine import running_broker
from broker.hardware import usable_cores
from broker.options import OWN_BROKER, NetworkOptions
from broker.slow_link import parse_link
from mpsl import strict_json
from mpsl.errors import UsageError
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.planning.objective import Shape
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.planner import plan
from mpsl.planning.system import system_of
from mpsl.topics import Topics
from mpsl.whole_file import write_whole
from orchestrator.commands.simulate import analytic_seconds
from orchestrator.commands.train import orchestrate
from orchestrator.job_file import check_job
from orchestrator.plan_option import job_as_planned
from orchestrator.processes import children

PREDICTIONS = ("simulated", "objective", "closed_form", "simulated_at_that_speed")
MODELS = (BenchmarkModel("resnet18", 32), BenchmarkModel("vgg11", 32, "small"))


@dataclass(frozen=True)
class PredictionSetting:
    """One system to predict and to run. `link` is written as for --link, or none."""

    hops: int
    devices: int
    link: str


@dataclass(frozen=True)
class RoundPrediction:
    """The predictions for a setting: seconds of a round by the simulator, the objective and the closed form."""

    model: str
    setting: PredictionSetting
    batches: int
    cuts: tuple[int, ...]
    simulated_s: float
    objective_s: float
    closed_form_s: float


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice([m.name for m in MODELS]), help="[default: all]")
@click.option("--hops", "hops", multiple=True, type=click.IntRange(1), default=(1, 2, 3), show_default=True)
@click.option("--devices", "devices", multiple=True, type=click.IntRange(1), default=(4, 8), show_default=True)
@click.option("--link", "links", multiple=True, default=("none", "100mbit/10ms"), show_default=True)
@click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Rounds that count; one more runs first."
)
@click.option(
    "--seconds", type=click.FloatRange(1.0), default=32.0, show_default=True, help="Minimum length of a round."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File for the predictions, written before the runs."
)
def command(
    models: tuple[str, ...], hops: tuple[int, ...], devices: tuple[int, ...], links: tuple[str, ...], rounds: int,
    seconds: float, out: Path | None,
) -> None:  # fmt: skip
    """Predict every setting, then run it. Prints one JSON object last."""
    for link in links:
        if link != "none":
            parse_link(link)
    settings = [PredictionSetting(n, k, link) for n in hops for k in devices for link in links]
    chosen = [model for model in MODELS if not models or model.name in models]
    for model in chosen:
        for setting in settings:
            check_job(_job(model, setting, rounds), "predict")
    if out is not None and not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no directory {out.parent}")
    known = measured(chosen)
    predicted = [(each, setting, *predict(each, setting, seconds)) for each in known for setting in settings]
    said = [asdict(prediction) for _, _, _, prediction in predicted]
    if out is not None:
        write_whole(out, strict_json.dumps(said, indent=1) + "\n")
    for each_said in said:
        click.echo(strict_json.dumps(each_said), err=True)
    rows = []
    for each, setting, found, prediction in predicted:
        before = slowness(each)
        rounds_s = asyncio.run(run(each, setting, found, prediction.batches, rounds))
        times_as_long = (before + slowness(each)) / 2
        fleet = fleet_of(each, setting.hops, setting.devices, prediction.batches, setting.link)
        row = compared(
            prediction, rounds_s, times_as_long, rehearsed(slowed(each.profile, times_as_long), fleet, found, 2)
        )
        rows.append(row)
        click.echo(line(row), err=True)
    click.echo(strict_json.dumps({"benchmark": "predict", "cores": usable_cores(), "rows": rows, **summary(rows)}))


def predict(known: Known, setting: PredictionSetting, seconds: float) -> tuple[PlanFile, RoundPrediction]:
    """Return the plan of a setting, with enough batches for a round of `seconds`, and the predictions for its round."""
    few, more = (_planned_seconds(known, setting, count) for count in (4, 8))
    batches = max(2, 4 + ceil(4 * (seconds - few) / (more - few)))
    fleet = fleet_of(known, setting.hops, setting.devices, batches, setting.link)
    found = plan(system_of(known.profile, fleet), Shape(setting.hops))
    prediction = RoundPrediction(
        known.model.name,
        setting,
        batches,
        found.cuts,
        rehearsed(known.profile, fleet, found, 2),
        found.predicted.round_s,
        analytic_seconds(known.profile, fleet, found),
    )
    return found, prediction


def _planned_seconds(known: Known, setting: PredictionSetting, batches: int) -> float:
    fleet = fleet_of(known, setting.hops, setting.devices, batches, setting.link)
    return rehearsed(known.profile, fleet, plan(system_of(known.profile, fleet), Shape(setting.hops)), 2)


async def run(known: Known, setting: PredictionSetting, found: PlanFile, batches: int, rounds: int) -> list[float]:
    """Run a setting and return the seconds of each round after the first. Every role is a process with one thread."""
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **OWN_BROKER}
    job = job_as_planned(_job(known.model, setting, rounds + 1), found, "the plan")
    with tempfile.TemporaryDirectory(prefix="mpsl-bench-") as name:
        directory = Path(name)
        async with running_broker("auto") as broker, children(directory / "logs") as group:
            shared = ["--broker", broker.url, "--once", "--threads", "1"]
            for seat in found.seats:
                await group.start(seat.node, ["node", "--id", seat.node, *shared], environment)
            link = [] if setting.link == "none" else ["--link", setting.link]
            await start_agents(group, job, batches, directory, [*shared, *link], environment, agents=1)
            network = NetworkOptions(own_broker(broker.url), Topics("main"), as_json=False, verbose=0)
            summary = await group.attend(orchestrate(network, job, directory / "out", found))
    if summary["state"] != "done":
        raise click.ClickException(f"{setting}: {summary['reason']}")
    return [each["seconds"] for each in summary["rounds"][1:]]


def _job(model: BenchmarkModel, setting: PredictionSetting, rounds: int) -> Job:
    return Job(
        RunSection("predict", rounds, model.batch_size, evaluate_every=rounds + 1),
        ModelSection(model.name, model.args),
        OptimizerSection("sgd", 0.01, momentum=0.9),
        FleetSection(setting.devices, setting.hops, start_timeout_s=120.0),
    )


def compared(
    prediction: RoundPrediction, rounds_s: Sequence[float], times_as_long: float, at_that_speed_s: float
) -> dict[str, Any]:
    """Return a setting with its rounds: the median, the spread relative to it, and the error of each prediction.

    A further simulation takes all computing `times_as_long` as in the profile, as measured around the run. It shows how
    much of an error comes from the machine, because the speed of a shared machine drifts.
    """
    median = statistics.median(rounds_s)
    said = dict(
        zip(
            PREDICTIONS,
            (prediction.simulated_s, prediction.objective_s, prediction.closed_form_s, at_that_speed_s),
            strict=True,
        )
    )
    return {
        **asdict(prediction),
        "rounds_s": list(rounds_s),
        "measured_s": median,
        "spread": (max(rounds_s) - min(rounds_s)) / median,
        "times_as_long": times_as_long,
        "error": {name: (seconds - median) / median for name, seconds in said.items()},
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean and the maximum of |error|, and the mean spread of the rounds, over all settings."""
    errors = {name: [abs(row["error"][name]) for row in rows] for name in PREDICTIONS}
    return {
        "mean_error": {name: statistics.mean(each) for name, each in errors.items()},
        "worst_error": {name: max(each) for name, each in errors.items()},
        "mean_spread": statistics.mean(row["spread"] for row in rows),
    }


def line(row: dict[str, Any]) -> str:
    """Return the line for a setting in the text output."""
    setting = row["setting"]
    errors = ", ".join(f"{name.replace('_', ' ')} {error:+.1%}" for name, error in row["error"].items())
    return (
        f"{row['model']:<9} {setting['hops']} hops {setting['devices']} devices {setting['link']:<13} "
        f"predicted {row['simulated_s']:.2f} s, measured {row['measured_s']:.2f} s "
        f"(spread {row['spread']:.1%}, machine {row['times_as_long']:.3f} times as long): {errors}"
    )
