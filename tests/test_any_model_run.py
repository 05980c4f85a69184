"""Whole runs of models that are functions, over a broker: several tensors on an edge, tied weights, evaluation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fleet import SGD, run_fleet
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker.engines.engine import BrokerProcess
from device_agent.shard_source import Shard
from mpsl.job import read_job
from mpsl.nn.block_model import block_model
from mpsl.nn.models import build

pytestmark = pytest.mark.slow

CASES: dict[str, tuple[dict[str, Any], list[int], dict[str, Any]]] = {
    "UNet": ({"shape": [1, 8, 8]}, [2, 4, 6], {"batch_size": 8, "rounds": 2, "micro_batches": 2}),
    "TinyGpt": ({"shape": [10], "dtype": "int64"}, [1, 3, -1], {"batch_size": 8, "rounds": 2}),
    "ResNet": ({"shape": [3, 16, 16]}, [], {"batch_size": 8, "rounds": 1}),
}


def shards_for(shape: list[int], tokens: bool, sizes: list[int]) -> dict[str, Shard]:
    chance = np.random.default_rng(3)

    def drawn(samples: int) -> np.ndarray:
        return (
            chance.integers(0, 20, (samples, *shape)) if tokens else chance.standard_normal((samples, *shape))
        ).astype(np.float32)

    return {
        f"dev-{n}": Shard(f"dev-{n}", drawn(size), chance.integers(0, 4, size), drawn(5), chance.integers(0, 4, 5))
        for n, size in enumerate(sizes, start=1)
    }


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_a_function_s_model_is_bit_identical(mosquitto: BrokerProcess, tmp_path: Path, name: str) -> None:
    torch.set_num_threads(1)
    sample, cuts, run = CASES[name]
    sizes = [19, 11]
    job: dict[str, Any] = {
        "run": {"name": "any", **run},
        "model": {"name": f"zoo:{name}", "args": {}, "input": sample},
        "optimizer": SGD,
        "fleet": {"devices": len(sizes), "nodes": 0},
    }
    model = block_model(read_job(job, "job").model)
    job["model"]["cuts"] = [cut % len(model) for cut in cuts]
    job["fleet"]["nodes"] = max(0, len(cuts) - 1)
    shards = shards_for(sample["shape"], "dtype" in sample, sizes)
    outcome = run_fleet(mosquitto.url, job, shards, tmp_path, max(0, len(cuts) - 1))

    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    setting = replace(setting_of(job), blocks=model.names)
    expected, losses = oracle(setting, {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
    assert [m["loss"] for m in outcome.summary["rounds"]] == pytest.approx(losses, rel=1e-6)

    whole = build(f"zoo:{name}").eval()
    whole.load_state_dict(actual)
    with torch.no_grad():
        outputs = [whole(torch.from_numpy(s.x_test).to(model.sample.dtype)) for s in shards.values()]
    right = sum(int((o.argmax(1).numpy() == s.y_test).sum()) for o, s in zip(outputs, shards.values(), strict=True))
    assert outcome.summary["accuracy"] == pytest.approx(right / 10)
