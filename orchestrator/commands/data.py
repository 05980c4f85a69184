"""`mpsl data`: splits a real data set into one shard for each device."""

from pathlib import Path

import click
import numpy as np

from mpsl import strict_json
from orchestrator.datasets import load
from orchestrator.shards import split, write


@click.command("data")
@click.argument("dataset")
@click.option("--devices", default=4, show_default=True, metavar="K", help="Number of shards.")
@click.option("--non-iid", type=float, metavar="A", help="Skew the labels by a Dirichlet distribution; 0.1 is strong.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0, max=2**32 - 1))
@click.option("--image-size", type=int, metavar="S", help="Pad the images with zeros to S×S.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--json", "as_json", is_flag=True, help="End with one JSON object on one line.")
def data(
    *, dataset: str, devices: int, non_iid: float | None, seed: int, image_size: int | None, out: Path, as_json: bool
) -> None:
    """Split DATASET (digits, fashion-mnist) over devices: DIR/dev-1.npz and so on."""
    shards = split(load(dataset, seed, image_size), devices, seed, non_iid)
    write(shards, out)
    kinds = 1 + max(int(shard.y.max()) for shard in shards.values())
    rows = [
        {
            "id": name,
            "samples": len(shard.y),
            "test_samples": len(shard.y_test),
            "labels": np.bincount(shard.y, minlength=kinds).tolist(),
            "file": str(out / f"{name}.npz"),
        }
        for name, shard in shards.items()
    ]
    if as_json:
        click.echo(strict_json.dumps({"dataset": dataset, "seed": seed, "non_iid": non_iid, "devices": rows}))
        return
    for row in rows:
        click.echo(f"{row['file']}: {row['samples']} samples, {row['test_samples']} held out; by label {row['labels']}")
