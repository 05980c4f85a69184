"""The commands a person runs first, as real processes: `mpsl local` and `mpsl demo`, their files, their ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
import torch
from driving import PATIENCE_S
from fleet import make_shards
from safetensors import safe_open
from safetensors.torch import load_file

from benchmarks.oracle import OracleSetting, oracle, stages_of
from broker.engines.engine import BrokerProcess
from mpsl.nn.models import build

MPSL = [sys.executable, "-c", "from broker.command import main; main()"]
pytestmark = pytest.mark.slow
JOB = """
[run]
name = "local"
rounds = {rounds}
batch_size = 8
[model]
name = "digits-cnn"
args = {{ dropout = 0.2 }}
cuts = {cuts}
[optimizer]
name = "sgd"
lr = 0.05
momentum = 0.9
[fleet]
devices = {devices}
nodes = {nodes}
"""


def mpsl(*arguments: str, timeout: float = PATIENCE_S, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run the command, with more in its environment, and keep what it says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [*MPSL, *arguments], check=False, capture_output=True, text=True, timeout=timeout, env=environment
    )


def write_job(directory: Path, **settings: Any) -> Path:
    """A job file of the digits network."""
    path = directory / "job.toml"
    path.write_text(JOB.format(**{"rounds": 2, "cuts": [2, 5, 8], "devices": 2, "nodes": 2, **settings}))
    return path


def write_shards(directory: Path, sizes: list[int]) -> dict[str, tuple[Any, Any]]:
    """Random shards as files."""
    directory.mkdir()
    shards = make_shards(sizes, (1, 8, 8), 10, test=6)
    for id, shard in shards.items():
        np.savez(directory / f"{id}.npz", x=shard.x, y=shard.y, x_test=shard.x_test, y_test=shard.y_test)
    return {id: (shard.x, shard.y) for id, shard in shards.items()}


@pytest.mark.parametrize("hops", ["0", "1"])
def test_a_broker_that_is_started_here_needs_nothing_of_the_environment(tmp_path: Path, hops: str) -> None:
    of_others = {
        "MPSL_PASSWORD_FILE": str(tmp_path / "missing"),
        "MPSL_BROKER": "mqtts://someone@broker.invalid",
        "MPSL_CONFIG": str(tmp_path / "missing.toml"),
    }
    line = ["demo", "--rounds", "1", "--devices", "1", "--hops", hops, "--out", str(tmp_path / "out")]
    done = mpsl(*line, **of_others)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_nor_does_a_measurement(tmp_path: Path) -> None:
    out = tmp_path / "profile.json"
    line = ["profile", "--model", "mlp", "--batch-size", "4", "--seconds", "0.2", "--copies", "1", "--out", str(out)]
    done = mpsl(*line, MPSL_PASSWORD_FILE=str(tmp_path / "missing"), MPSL_CONFIG=str(tmp_path / "missing.toml"))
    assert "PASSWORD" not in done.stderr
    assert "CPU s for a GB on the wire" in done.stdout or "do not add up" in done.stderr, done.stderr


@pytest.mark.parametrize("engine", ["mosquitto", "embedded"])
def test_local_is_exact_and_leaves_its_files(tmp_path: Path, engine: str) -> None:
    torch.set_num_threads(1)
    shards = write_shards(tmp_path / "shards", [21, 14])
    out = tmp_path / "out"
    job = write_job(tmp_path)
    done = mpsl("local", str(job), "--data", str(tmp_path / "shards"), "--out", str(out), "--engine", engine, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary == json.loads((out / "summary.json").read_text())
    outcome = {"run", "state", "reason", "rounds", "terms", "accuracy", "loss", "seconds"}
    assert set(summary) == outcome | {"seed", "versions", "started", "ended", "job"}
    assert (summary["seed"], summary["job"]["run"]["name"]) == (0, "local")
    assert summary["versions"].keys() == {"mpsl", "protocol", "python", "torch", "numpy"}
    assert summary["started"] < summary["ended"]
    assert summary["state"] == "done"

    setting = OracleSetting("digits-cnn", {"dropout": 0.2}, "sgd", 0.05, 2, 8, momentum=0.9)
    expected, _ = oracle(setting, shards, [metrics["devices"] for metrics in summary["rounds"]])
    model = build("digits-cnn", dropout=0.2)
    model.load_state_dict(load_file(out / "model.safetensors"))
    state = model.state_dict()
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []
    torch.manual_seed(0)
    initial = build("digits-cnn", dropout=0.2).state_dict()
    stored = load_file(out / "initial.safetensors")
    assert all(torch.equal(initial[name], stored[name]) for name in initial)
    assert json.loads((out / "plan.json").read_text())["cuts"] == [2, 5, 8]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["run"], line["round"]) for line in lines] == [(summary["run"], 1), (summary["run"], 2)]
    for name, number in (("initial", "0"), ("model", "2")):
        with safe_open(out / f"{name}.safetensors", "pt") as file:
            metadata = file.metadata()
        assert (metadata["format"], metadata["run"], metadata["round"]) == ("pt", summary["run"], number)
        assert build(metadata["model"], **json.loads(metadata["args"])).state_dict().keys() == state.keys()
    check_picture(out, summary["run"])


def check_picture(out: Path, run: str) -> None:
    """`mpsl plot` draws what was recorded: a row a device, and bars that lie within the measured round."""
    drawn = mpsl("plot", str(out))
    assert drawn.returncode == 0, drawn.stderr
    said = drawn.stdout.splitlines()
    assert said[0] == f"{out}/plot.svg: 2 rounds of {run}"
    assert [line.split()[0] for line in said[1:]] == ["round", "slowest", "worst"]
    records = [json.loads(line) for line in (out / "devices.jsonl").read_text().splitlines()]
    last = sorted((r for r in records if r["round"] == 2), key=lambda r: r["admitted_s"] - r["complete_s"])
    assert [record["device"] for record in last] == re.findall(r"dev-\d", said[2]), "the slowest first"
    seconds = json.loads((out / "metrics.jsonl").read_text().splitlines()[1])["seconds"]
    for record in last:
        assert 0 <= record["admitted_s"] < record["complete_s"] <= record["accepted_s"] < seconds
        assert record["accepted_s"] - record["admitted_s"] > record["seconds"], "the device's own clock agrees"
        assert record["left_out"] is None
    picture = ElementTree.fromstring((out / "plot.svg").read_text())
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [texts.count(record["device"]) for record in last] == [2, 2]


def test_the_broker_that_is_named_is_the_one_that_runs_it(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [21, 14])
    net = f"local-{os.getpid()}"
    broker = ["--broker", mosquitto.url, "--net", net]
    out = str(tmp_path / "out")
    done = mpsl("local", str(write_job(tmp_path)), "--data", str(tmp_path / "shards"), "--out", out, *broker)
    assert done.returncode == 0, done.stderr
    assert "watch it with" not in done.stderr
    # Runs that are done leave nothing retained; those who took part are still known there.
    listed = mpsl("ls", *broker, "--json").stdout.splitlines()[-1]
    assert set(re.findall(r"(?:dev|node)-\d", listed)) == {"dev-1", "dev-2", "node-1", "node-2"}


def test_wrong_use_is_status_2(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [21, 14])
    job = write_job(tmp_path, devices=3)
    done = mpsl("local", str(job), "--data", str(tmp_path / "shards"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2, done.stderr
    assert "devices" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_shard_is_named_and_the_run_fails(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", [21, 14])
    x = np.zeros((9, 1, 8, 8), dtype=np.float32)
    x[4] = np.nan
    np.savez(tmp_path / "shards" / "dev-2.npz", x=x, y=np.zeros(9, dtype=np.int64))
    out = tmp_path / "out"
    done = mpsl("local", str(write_job(tmp_path)), "--data", str(tmp_path / "shards"), "--out", str(out), "--json")
    assert done.returncode in (1, 2)
    assert "dev-2.npz" in done.stderr
    assert "NaN" in done.stderr


def test_local_runs_a_plan_with_its_nodes_and_replicas(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    shards = write_shards(tmp_path / "shards", [21, 14, 9])
    seats = [
        {"stage": 1, "replica": 0, "node": "attic", "blocks": [2, 5]},
        {"stage": 2, "replica": 0, "node": "cellar-2", "blocks": [5, 8]},
        {"stage": 2, "replica": 1, "node": "cellar-1", "blocks": [5, 8]},
    ]
    devices = {"dev-1": [0, 1], "dev-2": [0, 0], "dev-3": [0, 1]}
    (tmp_path / "plan.json").write_text(
        json.dumps({"cuts": [2, 5, 8], "seats": seats, "devices": devices, "admit": 2, "solver_ms": 4.0})
    )
    job, out = write_job(tmp_path, devices=3, nodes=3), tmp_path / "out"
    arguments = ["--data", str(tmp_path / "shards"), "--plan", str(tmp_path / "plan.json"), "--out", str(out), "--json"]
    done = mpsl("local", str(job), *arguments)
    assert done.returncode == 0, done.stderr
    summary, plan = json.loads(done.stdout.splitlines()[-1]), json.loads((out / "plan.json").read_text())
    assert [seat["node"] for seat in plan["seats"]] == ["attic", "cellar-2", "cellar-1"]
    assert {id: entry["replicas"] for id, entry in plan["devices"].items()} == devices
    setting = OracleSetting("digits-cnn", {"dropout": 0.2}, "sgd", 0.05, 2, 8, momentum=0.9)
    accepted = [metrics["devices"] for metrics in summary["rounds"]]
    expected, _ = oracle(setting, shards, accepted, [stages_of(each) for each in summary["rounds"]])
    found = load_file(out / "model.safetensors")
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def of_this_run(mark: str) -> list[psutil.Process]:
    """The processes that carry the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MPSL_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_the_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPSL_TEST_MARK": str(tmp_path)}
    command = [*MPSL, "demo", "--out", str(tmp_path / "out"), "--rounds", "50"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as demo:
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "out" / "metrics.jsonl").exists():
            assert time.monotonic() < deadline, "the demo did not finish a round"
            assert demo.poll() is None
            time.sleep(0.2)
        # The demo itself, the broker, two nodes and four devices.
        assert len(of_this_run(str(tmp_path))) >= 8
        demo.send_signal(number)
        assert demo.wait(PATIENCE_S) != 0
    deadline = time.monotonic() + 15
    while of_this_run(str(tmp_path)):
        assert time.monotonic() < deadline, [process.cmdline() for process in of_this_run(str(tmp_path))]
        time.sleep(0.1)


def test_the_demo_reaches_its_accuracy(tmp_path: Path) -> None:
    done = mpsl("demo", "--out", str(tmp_path / "out"), "--json", timeout=170)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["accuracy"] >= 0.97
    assert str(tmp_path / "out" / "model.safetensors") in done.stderr
