"""`mpsl bench throughput`: samples per second of a whole local system, and of plain PyTorch."""

import asyncio
from dataclasses import dataclass
from typing import Any

import click

from benchmarks.measurers import measuring, results
from benchmarks.spread import spread
from benchmarks.this_machine import BenchmarkModel, best_cuts, measured, parse_cuts
from broker.engines.engine_option import engine_option
from broker.hardware import usable_cores
from mpsl import strict_json
from mpsl.errors import MpslError, UsageError
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection, WireSection
from orchestrator.job_file import check_job
from orchestrator.locally import threads_each
from orchestrator.observed_system import Observed, Sample, observe, rate

PLAIN_S, PLAIN_END_S = 10.0, 600.0
"""Seconds that plain PyTorch trains, and the deadline for it."""


@dataclass(frozen=True)
class ThroughputSetting:
    """One system to measure."""

    model: str
    batch_size: int
    devices: int
    hops: int
    wire: str
    engine: str
    batches: int
    cuts: tuple[int, ...]

    @property
    def args(self) -> dict[str, Any]:
        """The model's arguments."""
        return BenchmarkModel(self.model, self.batch_size).args

    def job(self) -> Job:
        """Return a job of three rounds of `batches` batches per device. Without test data, nothing is evaluated."""
        return Job(
            RunSection("bench", 3, self.batch_size),
            ModelSection(self.model, self.args, self.cuts or None),
            OptimizerSection("sgd", 0.01, momentum=0.9),
            FleetSection(self.devices, self.hops, start_timeout_s=120.0),
            WireSection(self.wire, self.wire),
        )


@click.command()
@click.option("--model", default="resnet18", show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--devices", type=click.IntRange(1), default=4, show_default=True)
@click.option("--hops", type=click.IntRange(1), default=2, show_default=True)
@click.option("--wire", default="fp32", show_default=True, help="Codec for activations and gradients.")
@engine_option()
@click.option(
    "--batches", type=click.IntRange(4), default=12, show_default=True, help="Batches of each device in a round."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--cuts", help="Block indices such as 2,5,9.  [default: planned from a first measurement]")
def command(
    model: str, batch_size: int, devices: int, hops: int, wire: str, engine: str, batches: int, repeats: int,
    cuts: str | None,
) -> None:  # fmt: skip
    """Measure samples per second, alternating with the two references. Prints one JSON object last."""
    try:
        named = parse_cuts(cuts, hops) if cuts else ()
        check_job(ThroughputSetting(model, batch_size, devices, hops, wire, engine, batches, named).job(), "throughput")
        chosen = named or _planned(model, batch_size, devices, hops, batches)
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    except MpslError as error:
        raise click.ClickException(str(error)) from None
    setting = ThroughputSetting(model, batch_size, devices, hops, wire, engine, batches, chosen)
    click.echo(f"cuts {', '.join(map(str, chosen))}", err=True)
    cores, threads = usable_cores(), threads_each(hops + devices)
    runs, before = [], References.of(setting, cores)
    for number in range(1, repeats + 1):
        run = _system(setting, threads)
        after = References.of(setting, cores)
        run["whole_of_steady"] = run["whole"] / run["steady"]
        runs.append(run | before.beside(after, run["steady"]))
        before = after
        click.echo(_line(number, runs[-1]), err=True)
    click.echo(_where_time_went(runs[-1]["processes"]), err=True)
    figures = {
        key: spread([run[key] for run in runs])
        for key in ("steady", "whole", "whole_of_steady", "plain", "ceiling", "of_plain", "of_ceiling")
    }
    result = {
        "benchmark": "throughput",
        **vars(setting),
        "cores": cores,
        "threads": threads,
        **figures,
        "processes": runs[-1]["processes"],
    }
    click.echo(strict_json.dumps(result))


def _planned(model: str, batch_size: int, devices: int, hops: int, batches: int) -> tuple[int, ...]:
    """Return the cuts that are planned for this machine. Raises UsageError, MeasurementError."""
    click.echo(f"measuring {model} to plan its cuts", err=True)
    (known,) = measured([BenchmarkModel(model, batch_size)])
    return best_cuts(known, hops, devices, batches)


@dataclass(frozen=True)
class References:
    """Samples per second without a network: of one process with all cores, and of one process for each core."""

    plain: float
    ceiling: float

    @classmethod
    def of(cls, setting: ThroughputSetting, cores: int) -> "References":
        """Measure both now."""
        return cls(asyncio.run(_plain(setting, 1, cores)), asyncio.run(_plain(setting, cores, 1)))

    def beside(self, after: "References", steady: float) -> dict[str, float]:
        """Return the means of two measurements, and the ratio of the run between them to each."""
        plain, ceiling = (self.plain + after.plain) / 2, (self.ceiling + after.ceiling) / 2
        return {"plain": plain, "ceiling": ceiling, "of_plain": steady / plain, "of_ceiling": steady / ceiling}


def _line(number: int, run: dict[str, Any]) -> str:
    return (
        f"{number}: steady {run['steady']:.1f}, whole {run['whole']:.1f} ({run['whole_of_steady']:.3f} of it), "
        f"plain {run['plain']:.1f}, ceiling {run['ceiling']:.1f} samples/s; "
        f"{run['of_plain']:.3f} of plain, {run['of_ceiling']:.3f} of the ceiling"
    )


async def _plain(setting: ThroughputSetting, copies: int, threads: int) -> float:
    """Return the samples per second of plain PyTorch with `copies` processes of `threads` threads each."""
    command = [
        "benchmarks.plain", "--model", setting.model, "--args", strict_json.dumps(setting.args),
        "--batch-size", str(setting.batch_size), "--threads", str(threads), "--seconds", str(PLAIN_S),
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    commands = {f"plain PyTorch, process {number} of {copies}": command for number in range(1, copies + 1)}
    async with measuring(commands, environment) as processes:
        found = await results(processes, PLAIN_END_S)
    return float(sum(each["samples_per_s"] for each in found))


def _system(setting: ThroughputSetting, threads: int) -> dict[str, Any]:
    """Run the system once. Returns its rates, and where the time went in its steady state."""
    observed = asyncio.run(observe(setting.job(), setting.batches, setting.engine, threads))
    if observed.summary["state"] != "done":
        raise click.ClickException(observed.summary["reason"])
    last = f"node-{setting.hops}"
    per_round = setting.batches * setting.devices
    # The second round counts: in the first, memory grows and kernels are created.
    window = observed.steady(per_round + setting.devices, 2 * per_round - setting.devices, last)
    if window is None:
        raise click.ClickException("the round was too short to see a steady state; raise --batches")
    first, end = window
    batches_per_s = rate(first, end, last)
    second, third = observed.summary["rounds"][1:]
    return {
        "steady": batches_per_s * setting.batch_size,
        "whole": second["samples"] / (third["opened_s"] - second["opened_s"]),
        "processes": _processes(observed, first, end, batches_per_s),
    }


def _processes(observed: Observed, first: Sample, end: Sample, batches_per_s: float) -> dict[str, dict[str, float]]:
    """Return the CPU time of each process between two samples. Sampling counts as the orchestrator's."""
    wall = end.at - first.at
    found = {}
    for name, reading in end.readings.items():
        spent = reading - first.readings[name]
        worker = 0.0 if name == "broker" else spent.worker_s
        coding = end.coding.get(name, 0.0) - first.coding.get(name, 0.0)
        found[name] = {
            "compute_s": worker - coding,
            "encode_s": coding,
            "send_s": spent.total_s - worker,
            "wait_s": max(0.0, wall - spent.total_s),
            "cpu_s_per_batch": spent.total_s / (batches_per_s * wall),
            "peak_mb": observed.peaks.get(name, 0) / 1e6,
        }
    return found


def _where_time_went(processes: dict[str, dict[str, float]]) -> str:
    lines = [f"{'process':<12} {'compute':>9} {'encode':>9} {'send':>9} {'wait':>8} {'CPU s/batch':>12} {'peak MB':>8}"]
    for name, spent in processes.items():
        lines.append(
            f"{name:<12} {spent['compute_s']:>8.2f}s {spent['encode_s']:>8.2f}s {spent['send_s']:>8.2f}s "
            f"{spent['wait_s']:>7.2f}s {spent['cpu_s_per_batch']:>12.4f} {spent['peak_mb']:>8.0f}"
        )
    return "\n".join([*lines, "The orchestrator's process has watched the others as well."])
