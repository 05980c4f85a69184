"""One exact job over each broker of docs/brokers.md; `pytest -rP` shows the seconds that the page quotes."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from brokers import serving
from fleet import SGD, make_shards, run_fleet
from mqtt_clients import ENGINES
from other_brokers import OTHERS, serving_other
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker.address import BrokerAddress, parse_broker

pytestmark = pytest.mark.slow

SIZES = [19, 27, 10]
JOB = {
    "run": {"name": "exact", "rounds": 2, "batch_size": 8},
    "model": {"name": "mlp", "args": {"hidden": [700] * 4, "image_size": 8, "dropout": 0.3}, "cuts": [1, 2, 4]},
    "optimizer": SGD,
    "fleet": {"devices": 3, "nodes": 2},
}
"""Its parts weigh 2 and 4 MB: they go in whole chunks, which a broker's limits must let through."""


@contextlib.contextmanager
def serving_any(name: str) -> Iterator[list[BrokerAddress]]:
    """The addresses of any broker while it runs."""
    if name in OTHERS:
        with serving_other(name) as addresses:
            yield addresses
    else:
        with serving(name) as process:
            yield [parse_broker(process.url)]


@pytest.mark.parametrize("name", [*ENGINES, *OTHERS])
def test_bit_identical(tmp_path: Path, name: str) -> None:
    """Devices and nodes are online before the orchestrator comes, and spread over the members of a cluster."""
    torch.set_num_threads(1)
    shards = make_shards(SIZES, (1, 8, 8), 10, test=11)
    began = time.monotonic()
    with serving_any(name) as addresses:
        started = time.monotonic()
        outcome = run_fleet(
            lambda id: addresses[sum(id.encode()) % len(addresses)], JOB, shards, tmp_path, 2, orchestrator_last=True
        )
        ended = time.monotonic()
    seconds = " + ".join(f"{metrics['seconds']:.2f}" for metrics in outcome.summary["rounds"])
    print(f"{name}: started in {started - began:.1f} s, the job took {ended - started:.1f} s, its rounds {seconds} s")

    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    assert [sorted(devices) for devices in accepted] == [sorted(shards)] * 2
    expected, losses = oracle(setting_of(JOB), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
    assert [m["loss"] for m in outcome.summary["rounds"]] == pytest.approx(losses, rel=1e-6)
    assert {stop.status for stop in outcome.stops.values()} == {0}
