"""A model, a codec and an optimizer of another installed package: one file each, and every command knows them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from mpsl.codecs import codecs
from mpsl.errors import UsageError
from mpsl.nn.models import models
from mpsl.nn.optimizers import optimizers

MPSL = [sys.executable, "-c", "from broker.command import main; main()"]

MODEL = """
import dataclasses
from torch import nn
from mpsl.nn.models import Model, models

@models.register("tiny-mlp")
@dataclasses.dataclass(frozen=True)
class TinyMlp(Model):
    width: int = 12

    def input_shape(self):
        return (6,)

    def blocks(self):
        wide = [nn.Sequential(nn.Linear(self.width, self.width), nn.ReLU()) for _ in range(3)]
        return [nn.Linear(6, self.width), *wide, nn.Linear(self.width, self.num_classes)]
"""

CODEC = '''
import numpy as np
from mpsl.codecs.codec import Codec, codecs

@codecs.register("halved")
class Halved(Codec):
    """fp16 as numpy has it, and 4 bytes that say nothing."""

    name = "halved"

    def _max_sizes(self, values):
        return (2 * values, 4)

    def _encode(self, flat):
        return (flat.astype("<f2"), np.zeros(4, np.uint8))

    def _decode(self, planes, flat):
        flat[:] = np.frombuffer(planes[0], "<f2")
'''

OPTIMIZER = '''
from typing import ClassVar
from mpsl.nn.optimizers import Optimizer, optimizers

@optimizers.register("three-sums")
class ThreeSums(Optimizer):
    """Signs of the gradient, and three tensors of state that a budget must know of."""

    kinds: ClassVar = {"three-sums": {}}

    def __init__(self, section):
        super().__init__(section)
        self.sums = {}

    @classmethod
    def state_bytes(cls, section, parameter_bytes):
        return 3 * parameter_bytes

    def update(self, parameter, gradient):
        for total in self.sums.setdefault(parameter, [gradient.clone() for _ in range(3)]):
            total += gradient
        parameter.add_(gradient.sign(), alpha=-self.section.lr)

    def held_bytes(self):
        return sum(total.nbytes for totals in self.sums.values() for total in totals)
'''

ENTRY_POINTS = """
[mpsl.models]
tiny-mlp = outside_parts.model

[mpsl.codecs]
halved = outside_parts.codec

[mpsl.optimizers]
three-sums = outside_parts.optimizer
"""

JOB = """
[run]
name = "outside"
rounds = 2
batch_size = 8
[model]
name = "tiny-mlp"
args = { width = 10, num_classes = 3 }
cuts = [1, 3]
[optimizer]
name = "three-sums"
lr = 0.01
[wire]
activations = "halved"
gradients = "halved"
[fleet]
devices = 2
nodes = 1
"""

FLEET = """
broker = { link_mbps = 1000, latency_ms = 1 }
[[devices]]
id = "pi"
hardware = "box"
samples = 64
up_mbps = 10
down_mbps = 10
latency_ms = 1
[[nodes]]
id = "server"
hardware = "box"
memory_gib = 2
link_mbps = 1000
cost_per_hour = 1
[job]
optimizer = "OPTIMIZER"
activations = "CODEC"
first_cut = 1
last_cut = 3
"""


def install(directory: Path, entry_points: str = ENTRY_POINTS) -> None:
    """What `pip install` would leave of the package."""
    package, metadata = directory / "outside_parts", directory / "outside_parts-1.0.dist-info"
    for folder in (package, metadata):
        folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("model", MODEL), ("codec", CODEC), ("optimizer", OPTIMIZER)):
        (package / f"{name}.py").write_text(text)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: outside-parts\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    install(tmp_path / "site")
    return tmp_path / "site"


def mpsl(site: Path | None, *arguments: str) -> "subprocess.CompletedProcess[str]":
    paths = [str(site)] if site else []
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [*MPSL, *arguments], check=False, capture_output=True, text=True, timeout=120, env=environment
    )


def job_file(directory: Path) -> Path:
    path = directory / "job.toml"
    path.write_text(JOB)
    return path


def planned(site: Path, directory: Path, codec: str, optimizer: str) -> dict[str, float]:
    """The bytes at the node and the seconds of a batch that `mpsl plan` predicts."""
    times = {"forward_ms": [1.0] * 5, "backward_ms": [1.0] * 5}
    blocks = [{"name": "b", "parameter_bytes": 10**6, "output_bytes": 10**6, "stored_bytes": 0}] * 5
    profile = {
        "model": "tiny-mlp", "batch_size": 8, "input_bytes": 192, "blocks": blocks, "hardware": {"box": times},
    }  # fmt: skip
    (directory / "profile.json").write_text(json.dumps(profile))
    (directory / "fleet.toml").write_text(FLEET.replace("CODEC", codec).replace("OPTIMIZER", optimizer))
    done = mpsl(
        site, "plan", "--json", "--profile", str(directory / "profile.json"), "--fleet", str(directory / "fleet.toml")
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["predicted"]
    return {"bytes": found["node_memory_bytes"]["server"], "seconds": found["batch_s"]}


def test_plan_counts_by_what_they_say_of_themselves(installed: Path, tmp_path: Path) -> None:
    outside = planned(installed, tmp_path, "halved", "three-sums")
    inside = planned(installed, tmp_path, "fp16", "sgd")
    assert outside["bytes"] == inside["bytes"] + 3 * 2 * 10**6, "three tensors of state for two blocks"
    # Forward, 4 bytes more cross each cut: over the device's link and over the node's.
    more = 2 * 4 * (1 / 1.25e6 + 1 / 125e6)
    assert outside["seconds"] == pytest.approx(inside["seconds"] + more, abs=1e-9)


def test_check_knows_them(installed: Path, tmp_path: Path) -> None:
    done = mpsl(installed, "check", str(job_file(tmp_path)), "--json")
    assert done.returncode == 0, done.stderr
    edges = json.loads(done.stdout.splitlines()[-1])["edges"]
    assert [(edge["forward_bytes"], edge["backward_bytes"]) for edge in edges] == [(2 * 80 + 4, 2 * 80 + 4)] * 2


def test_without_the_package_check_says_which_name_it_misses(tmp_path: Path) -> None:
    done = mpsl(None, "check", str(job_file(tmp_path)))
    assert done.returncode == 2
    assert "optimizer.name: unknown optimizer 'three-sums'; known: adam, adamw, rmsprop, sgd" in done.stderr


@pytest.mark.slow
def test_local_trains_with_them_in_every_process(installed: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    shards, out = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    for id in ("dev-1", "dev-2"):
        samples = chance.standard_normal((21, 6)).astype(np.float32)
        np.savez(shards / f"{id}.npz", x=samples, y=chance.integers(0, 3, 21))
    done = mpsl(installed, "local", str(job_file(tmp_path)), "--data", str(shards), "--out", str(out))
    assert done.returncode == 0, done.stderr
    before, after = load_file(out / "initial.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(bool((before[name] != after[name]).any()) for name in before), "every part has been stepped"
    assert json.loads((out / "summary.json").read_text())["state"] == "done"


@pytest.mark.parametrize(
    ("entry_points", "message"),
    [
        ("[mpsl.models]\nmlp = outside_parts.model\n", "model 'mlp' of outside-parts 1.0: the name is taken"),
        ("[mpsl.models]\ntiny-mlp = outside_parts.no\n", "model 'tiny-mlp' of outside-parts 1.0 cannot be imported"),
        ("[mpsl.models]\ntiny-mlp = outside_parts.codec\n", "has not registered that name"),
    ],
    ids=["taken", "missing", "silent"],
)
def test_a_package_that_keeps_no_promise_is_named(tmp_path: Path, entry_points: str, message: str) -> None:
    install(tmp_path / "site", entry_points)
    job = tmp_path / "job.toml"
    job.write_text(JOB.replace("three-sums", "sgd"))
    done = mpsl(tmp_path / "site", "check", str(job))
    assert done.returncode == 2
    assert message in done.stderr


def test_what_is_here_is_found_without_a_look_at_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpsl.registry.entry_points", None)
    for family, name in ((models, "mlp"), (codecs, "fp32"), (optimizers, "sgd")):
        assert family.get(name)  # type: ignore[attr-defined]


def test_a_name_is_registered_once() -> None:
    assert optimizers.names() == ["adam", "adamw", "rmsprop", "sgd"]
    with pytest.raises(ValueError, match="optimizer 'sgd' is registered twice"):
        optimizers.register("sgd")(optimizers.get("sgd"))
    with pytest.raises(
        UsageError, match="unknown optimizer 'adamx'; did you mean 'adam'\\? known: adam, adamw, rmsprop, sgd"
    ):
        optimizers.get("adamx")
