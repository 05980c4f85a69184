"""`mpsl device --count`: several devices in one process, each its own; and --link on the way to the broker."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import PATIENCE_S
from fleet import make_shards
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker.engines.engine import BrokerProcess
from device_agent.agents import extra_seconds
from device_agent.command import shards_in
from mpsl.errors import UsageError
from mpsl.machines.jobs import HeadBackward, HeadForward, HeadProbe, StartRound, TailStep, WholeBatch, WorkerJob
from mpsl.messages import Tensor, Ticket

JOB: dict[str, Any] = {
    "run": {"name": "count", "rounds": 2, "batch_size": 8},
    "model": {"name": "digits-cnn", "args": {"dropout": 0.1}, "cuts": [2, 8]},
    "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
    "fleet": {"devices": 3, "nodes": 1, "start_timeout_s": 60.0},
}


def write_shards(directory: Path, sizes: list[int]) -> dict[str, Any]:
    shards = make_shards(sizes, (1, 8, 8), 10, test=5)
    directory.mkdir()
    for id, s in shards.items():
        np.savez(directory / f"{id}.npz", x=s.x, y=s.y, x_test=s.x_test, y_test=s.y_test)
    return shards


def start(*arguments: str) -> "subprocess.Popen[str]":
    code = "import sys; from broker.command import main; sys.argv[0] = 'mpsl'; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def toml(job: dict[str, Any]) -> str:
    def value(v: Any) -> str:
        return (
            "{" + ", ".join(f"{k} = {value(x)}" for k, x in v.items()) + "}" if isinstance(v, dict) else json.dumps(v)
        )

    return "".join(f"[{s}]\n" + "".join(f"{k} = {value(v)}\n" for k, v in keys.items()) for s, keys in job.items())


def run_processes(
    broker: str, tmp_path: Path, device: list[str], nodes: list[str]
) -> tuple[dict[str, Any], Any, list[int]]:
    (tmp_path / "job.toml").write_text(toml(JOB))
    shared = ["--broker", broker, "--net", f"t-{secrets.token_hex(6)}", "--json"]
    processes = [
        start("device", *shared, "--threads", "1", "--once", *device),
        start("node", *shared, "--threads", "1", "--once", "--id", "node-1", *nodes),
        start("train", *shared, str(tmp_path / "job.toml"), "--out", str(tmp_path / "out")),
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    summary = json.loads(outputs[2][0].splitlines()[-1])
    assert summary["state"] == "done", (summary["reason"], outputs[0][1][-2000:])
    return summary, outputs[0], [process.returncode for process in processes]


def test_three_devices_in_one_process_train_exactly_and_each_has_its_own_lines(
    mosquitto: BrokerProcess, tmp_path: Path
) -> None:
    import torch

    shards = write_shards(tmp_path / "data", [17, 9, 25])
    device = ["--count", "3", "--data", str(tmp_path / "data")]
    summary, (stdout, stderr), statuses = run_processes(mosquitto.url, tmp_path, device, [])
    assert statuses == [0, 0, 0]
    ended = json.loads(stdout.splitlines()[-1])
    assert ended["status"] == 0
    assert [entry["id"] for entry in ended["devices"]] == ["dev-1", "dev-2", "dev-3"]
    for id in shards:
        assert any(f" id={id} " in line and "event=joining" in line for line in stderr.splitlines())
    torch.set_num_threads(1)
    accepted = [metrics["devices"] for metrics in summary["rounds"]]
    expected, _ = oracle(setting_of(JOB), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "out" / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_a_slow_link_changes_nothing_but_the_time(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    import torch

    shards = write_shards(tmp_path / "data", [17, 9, 25])
    device = ["--count", "3", "--data", str(tmp_path / "data"), "--link", "20mbit/10ms"]
    summary, _, statuses = run_processes(mosquitto.url, tmp_path, device, ["--link", "100mbit/1ms"])
    assert statuses == [0, 0, 0]
    # Each device's own two ways through the first batch, there and back, four latencies: no link, no such time.
    batches = sum(-(-len(s.y) // 8) for s in shards.values())
    assert all(metrics["seconds"] > 4 * 0.01 * batches / 3 for metrics in summary["rounds"])
    torch.set_num_threads(1)
    accepted = [metrics["devices"] for metrics in summary["rounds"]]
    expected, _ = oracle(setting_of(JOB), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "out" / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_the_first_shards_by_name_are_taken(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [4, 5, 6])
    assert {id: shard.samples for id, shard in shards_in(tmp_path / "data", 2).items()} == {"dev-1": 4, "dev-2": 5}


def test_too_few_shards_no_directory_and_bad_names_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [4, 5])
    with pytest.raises(UsageError, match=r"--count 3: .* holds 2"):
        shards_in(tmp_path / "data", 3)
    with pytest.raises(UsageError, match="a directory"):
        shards_in(tmp_path / "data" / "dev-1.npz", 1)
    (tmp_path / "data" / "dev-1.npz").rename(tmp_path / "data" / "Device_1.npz")
    with pytest.raises(UsageError, match="Device_1"):
        shards_in(tmp_path / "data", 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [(["--count", "2", "--id", "a"], "--id"), (["--link", "fast"], "8mbit/20ms"), (["--count", "0"], "count")],
)
def test_wrong_use_ends_with_status_2(tmp_path: Path, options: list[str], says: str) -> None:
    process = start("device", "--data", str(tmp_path), *options)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert says in stderr


def test_the_exit_status_is_the_worst(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [4, 5])
    net = f"t-{secrets.token_hex(6)}"
    shared = ["--broker", mosquitto.url, "--net", net, "--once", "--json", "--threads", "1"]
    first = start("device", *shared, "--id", "dev-2", "--data", str(tmp_path / "data" / "dev-2.npz"))
    try:
        assert first.stderr is not None
        for line in first.stderr:
            if "online" in line:
                break
        both = start("device", *shared, "--count", "2", "--data", str(tmp_path / "data"))
        assert both.stderr is not None
        for line in both.stderr:
            if "id=dev-2 event=ended" in line:
                break
        both.terminate()
        stdout, _ = both.communicate(timeout=PATIENCE_S)
        ended = json.loads(stdout.splitlines()[-1])
        assert [entry["status"] for entry in ended["devices"]] == [0, 1]
        assert ended["status"] == both.returncode == 1
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("micros", [1, 3])
def test_a_slower_processor_takes_so_much_longer_for_a_whole_batch(micros: int) -> None:
    tensor = Tensor("fp32", "float32", (0,), ())
    tickets = [Ticket(1, 1, "dev-1", 1, 0, 0, micro, micros) for micro in range(micros)]
    jobs: list[WorkerJob] = [
        job
        for ticket in tickets
        for job in (HeadForward(ticket), TailStep(ticket, tensor), HeadBackward(ticket, tensor))
    ]
    assert sum(extra_seconds(job, 0.6) for job in jobs) == pytest.approx(0.6)
    assert extra_seconds(WholeBatch(tickets[0]), 0.6) == 0.6
    assert extra_seconds(HeadProbe(1, 1, 0), 0.6) == extra_seconds(StartRound(1, 1), 0.6) == 0.0
