"""A fleet from `mpsl fleet init` to a trained model: real mosquitto, real certificates, and the reference's bits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fleet import SGD, make_shards, run_fleet
from fleets import ServedFleet, served
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from orchestrator.processes import children

pytestmark = pytest.mark.slow

JOB = {
    "run": {"name": "fleet", "rounds": 2, "batch_size": 8},
    "model": {"name": "digits-cnn", "args": {"dropout": 0.1}, "cuts": [2, 5, 8]},
    "optimizer": SGD,
    "fleet": {"devices": 2, "nodes": 2},
}
JOB_TEXT = """
[run]
name = "fleet"
rounds = 1
batch_size = 8
[model]
name = "digits-cnn"
cuts = [2, 5, 8]
[optimizer]
name = "sgd"
lr = 0.05
[fleet]
devices = 2
nodes = 2
start_timeout_s = 60.0
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFleet]:
    with served(tmp_path_factory.mktemp("fleet") / "fleet") as running:
        yield running


def test_a_run_over_the_broker_of_a_fleet_is_exact(fleet: ServedFleet, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    shards = make_shards([17, 12], (1, 8, 8), 10, test=5)
    outcome = run_fleet(fleet.address, JOB, shards, tmp_path, nodes=2, net="main")
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    assert [sorted(ids) for ids in accepted] == [["dev-1", "dev-2"]] * 2
    expected, _ = oracle(setting_of(JOB), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_agent_toml_is_all_that_a_process_needs(fleet: ServedFleet, tmp_path: Path) -> None:
    """The commands, as processes; only the port differs from what the file says."""
    import numpy as np

    chance = np.random.default_rng(0)
    for number in (1, 2):
        x = chance.standard_normal((16, 1, 8, 8), dtype=np.float32)
        np.savez(tmp_path / f"dev-{number}.npz", x=x, y=chance.integers(0, 10, 16))
    (tmp_path / "job.toml").write_text(JOB_TEXT)

    def options(id: str) -> list[str]:
        file = fleet.client(id) / "agent.toml"
        text = file.read_text()
        file.write_text(text.replace("localhost:8883", f"localhost:{fleet.process.port}"))
        return ["--config", str(file)]

    async def run() -> None:
        async with children() as group:
            once = ["--once", "--threads", "1"]
            for id in ("node-1", "node-2"):
                await group.start(id, ["node", *options(id), *once], {})
            for id in ("dev-1", "dev-2"):
                data = ["--data", str(tmp_path / f"{id}.npz")]
                environment = {"MPSL_CONFIG": options(id)[1]}
                await group.start(id, ["device", *data, *once], environment)
            out = ["--out", str(tmp_path / "out")]
            await group.start("train", ["train", str(tmp_path / "job.toml"), *out, *options("orch")], {})
            for child in group.all:
                assert await child.process.wait() == 0, f"{child.name}: {child.tail.decode()}"

    asyncio.run(run())
    assert (tmp_path / "out" / "model.safetensors").exists()
