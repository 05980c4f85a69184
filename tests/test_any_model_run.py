"""Whole runs of models that are functions, over a broker: several tensors on an edge, tied weights, evaluation."""

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fleet import SGD, Outcome, run_fleet
from safetensors.torch import load_file, save_file

from benchmarks.oracle import oracle, setting_of, stages_of
from broker.engines.engine import BrokerProcess
from device_agent.shard_source import Shard
from mpsl.job import read_job
from mpsl.nn.block_model import block_model
from mpsl.nn.models import build

pytestmark = pytest.mark.slow

Case = tuple[dict[str, Any], list[int], dict[str, Any]]
CASES: dict[str, Case] = {
    "UNet": ({"shape": [1, 8, 8]}, [2, 4, 6], {"batch_size": 8, "rounds": 2, "micro_batches": 2}),
    "TinyGpt": ({"shape": [10], "dtype": "int64"}, [1, 3, -1], {"batch_size": 8, "rounds": 2}),
    "ResNet": ({"shape": [3, 16, 16]}, [], {"batch_size": 8, "rounds": 1}),
    # The first hop is a ReLU that works in place: it has no weights.
    "in_place_chain": ({"shape": [3, 8, 8]}, [1, 2, 5], {"batch_size": 8, "rounds": 2}),
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


def trained(
    broker: BrokerProcess,
    out: Path,
    name: str,
    model: dict[str, Any],
    cuts: list[int],
    run: dict[str, Any],
    seats: int = 1,
) -> tuple[Outcome, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A run of a model, and its weights beside those of the reference."""
    torch.set_num_threads(1)
    sizes = [19, 11]
    job: dict[str, Any] = {
        "run": {"name": "any", **run},
        "model": {"name": name, "args": {}, **model},
        "optimizer": SGD,
        "fleet": {"devices": len(sizes), "nodes": 0, "replicas": seats},
    }
    known = block_model(read_job(job | {"fleet": {"devices": 2, "nodes": 0}}, "job").model)
    job["model"]["cuts"] = [cut % len(known) for cut in cuts]
    job["fleet"]["nodes"] = nodes = max(0, len(cuts) - 1) * seats
    shards = shards_for(list(known.sample.shape), known.sample.dtype == torch.int64, sizes)
    outcome = run_fleet(broker.url, job, shards, out, nodes)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    rounds = outcome.summary["rounds"]
    owners = {name: block for block in range(len(known)) for name in known.state_names(block, block + 1)}
    owners |= {alias: owners[name] for alias, name in known.aliases.items()}
    setting = replace(setting_of(job), blocks=known.names, owners=owners)
    data = {id: (s.x, s.y) for id, s in shards.items()}
    stages = [stages_of(each) for each in rounds] if seats > 1 else None
    expected, losses = oracle(setting, data, [each["devices"] for each in rounds], stages)
    assert [each["loss"] for each in rounds] == pytest.approx(losses, rel=1e-6)
    actual = load_file(out / "model.safetensors")
    assert actual.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []

    whole = build(name)
    whole.load_state_dict(actual)
    whole.eval()
    with torch.no_grad():
        outputs = [whole(torch.from_numpy(s.x_test).to(known.sample.dtype)) for s in shards.values()]
    right = sum(int((o.argmax(1).numpy() == s.y_test).sum()) for o, s in zip(outputs, shards.values(), strict=True))
    assert outcome.summary["accuracy"] == pytest.approx(right / 10)
    return outcome, actual, load_file(out / "initial.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_a_function_s_model_is_bit_identical(mosquitto: BrokerProcess, tmp_path: Path, name: str) -> None:
    sample, cuts, run = CASES[name]
    trained(mosquitto, tmp_path, f"zoo:{name}", {"input": sample}, cuts, run)


FROZEN: dict[str, tuple[str, dict[str, Any], list[int], int]] = {
    # Nothing of the device's first part trains, so no gradient comes back to it.
    "front": ("zoo:UNet", {"input": {"shape": [1, 8, 8]}, "freeze": ["down*"]}, [3, 5, -1], 1),
    # A whole hop is frozen between parts that train.
    "middle": ("zoo:TinyGpt", {"input": {"shape": [10], "dtype": "int64"}, "freeze": ["layers.1*"]}, [1, 3, 5, -1], 1),
    "all-but-the-head": ("digits-cnn", {"train": ["7.*", "8.*"]}, [2, 5, 8], 2),
    "no-hops": ("digits-cnn", {"freeze": ["0.*", "3.*"]}, [], 1),
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_parameters_stay_and_are_sent_once(mosquitto: BrokerProcess, tmp_path: Path, name: str) -> None:
    model, section, cuts, seats = FROZEN[name]
    run = {"batch_size": 8, "rounds": 3, "micro_batches": 2}
    outcome, after, before = trained(mosquitto, tmp_path, model, section, cuts, run, seats)
    patterns = section.get("freeze", section.get("train", []))
    named = [key for key, _ in build(model).named_parameters() if any(fnmatchcase(key, each) for each in patterns)]
    frozen = set(named) if "freeze" in section else {key for key, _ in build(model).named_parameters()} - set(named)
    assert frozen
    assert all(torch.equal(after[key], before[key]) for key in frozen)
    assert any(not torch.equal(after[key], before[key]) for key in after.keys() - frozen)
    first, second, third = (entry["bytes"] for entry in outcome.summary["rounds"])
    # What differs between later rounds is acknowledgements. In the middle, the devices hold nothing frozen.
    assert name == "middle" or max(second["device_down"], third["device_down"]) < 0.8 * first["device_down"]


def test_a_run_starts_from_weights_with_a_new_head(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    torch.manual_seed(77)
    start = {name: tensor for name, tensor in build("digits-cnn").state_dict().items() if not name.startswith("8.")}
    save_file(start, tmp_path / "start.safetensors")
    model = {"weights": str(tmp_path / "start.safetensors"), "strict": False, "freeze": ["0.*", "1.*"]}
    _, after, before = trained(
        mosquitto, tmp_path / "out", "digits-cnn", model, [2, 5, 8], {"batch_size": 8, "rounds": 1}
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in start.items())
    assert not torch.equal(after["8.weight"], before["8.weight"])
