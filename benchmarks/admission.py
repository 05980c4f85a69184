"""`mpsl bench admission`: the time of a round with G devices admitted at once, compared with all devices at once."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from benchmarks.memory import MemorySetting, measure
from benchmarks.spread import extremes, medians, spread
from mpsl import strict_json
from orchestrator.job_file import check_job


@click.command()
@click.option("--model", default="vgg11", show_default=True, help="Model; vgg11 has the small head.")
@click.option("--devices", "counts", multiple=True, type=click.IntRange(2), default=(8, 40), show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--hops", type=click.IntRange(1), default=2, show_default=True)
@click.option("--batches", type=click.IntRange(1), default=2, show_default=True, help="Batches of each device.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
def command(model: str, counts: tuple[int, ...], batch_size: int, hops: int, batches: int, repeats: int) -> None:
    """Measure the time of a round with G devices at once and with all, alternating. Prints one JSON object last."""
    setting = MemorySetting(model, batch_size, hops, None, (), batches, 1)
    check_job(setting.job(max(counts)), "admission")
    results = []
    for devices in counts:
        runs = []
        for number in range(repeats):
            few = asyncio.run(measure(setting, devices))
            everyone = asyncio.run(measure(replace(setting, admit=devices), devices))
            runs.append({"seconds": few.seconds, "seconds_all_at_once": everyone.seconds})
            click.echo(
                f"{devices} devices, {number + 1}: {few.seconds:.1f} s with G = {few.plan['admit']}, "
                f"{everyone.seconds:.1f} s with all; {few.seconds / everyone.seconds:.3f}",
                err=True,
            )
        results.append({"devices": devices, "admit": few.plan["admit"], **figures(runs)})
    click.echo(strict_json.dumps({"benchmark": "admission", **vars(setting), "results": results}))


def figures(runs: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return the seconds of pairs of runs, their spread, and the ratio of G to all at once within each pair."""
    prices = [run["seconds"] / run["seconds_all_at_once"] for run in runs]
    return {**medians(runs), "spread": extremes(runs), "price": spread(prices)}
