"""One exact job over each of the brokers that docs/brokers.md describes and that the project does not start itself."""

import time
from pathlib import Path

import pytest
import torch
from fleet import make_shards, run_fleet
from oracle import SGD, oracle, setting_of
from other_brokers import OTHERS, serving_other
from safetensors.torch import load_file

from broker.address import BrokerAddress

pytestmark = pytest.mark.slow

SIZES = [19, 27, 10]
JOB = {
    "run": {"name": "exact", "rounds": 2, "batch_size": 8},
    "model": {"name": "mlp", "args": {"hidden": [700] * 4, "image_size": 8, "dropout": 0.3}, "cuts": [1, 2, 4]},
    "optimizer": SGD,
    "fleet": {"devices": 3, "nodes": 2},
}
"""Its parts weigh 2 and 4 MB: they go in whole chunks, which a broker's limits must let through."""


@pytest.mark.parametrize("name", OTHERS)
def test_bit_identical(tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    shards = make_shards(SIZES, (1, 8, 8), 10, test=11)
    t0 = time.monotonic()
    with serving_other(name) as addresses:
        t1 = time.monotonic()

        def nearest(id: str) -> BrokerAddress:
            """In a cluster the processes are spread over its members."""
            return addresses[sum(id.encode()) % len(addresses)]

        outcome = run_fleet(nearest, JOB, shards, tmp_path, 2)
        t2 = time.monotonic()
    print(name, "start", t1 - t0, "run", t2 - t1, "stop", time.monotonic() - t2)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    assert [sorted(devices) for devices in accepted] == [sorted(shards)] * 2
    expected, losses = oracle(setting_of(JOB), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
    assert [m["loss"] for m in outcome.summary["rounds"]] == pytest.approx(losses, rel=1e-6)
    assert {stop.status for stop in outcome.stops.values()} == {0}
