"""One run over each kind of broker and protocol; and what crosses the broker is neither a sample nor a label."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from brokers import SecureBroker, serving
from fleet import SGD, make_shards, run_fleet
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker import connection, paho_steps
from broker.address import BrokerAddress, parse_broker
from broker.connection import connect
from broker.engines.engine import BrokerProcess
from broker.mqtt_client import MqttClient
from mpsl import wire
from mpsl.link import chunk
from mpsl.messages import Counters

pytestmark = pytest.mark.slow
SHAPE = (1, 8, 8)


def job(devices: int, **run: Any) -> dict[str, Any]:
    """Two hops of the digits network."""
    return {
        "run": {"name": "bytes", "rounds": 2, "batch_size": 8, **run},
        "model": {"name": "digits-cnn", "args": {"dropout": 0.1}, "cuts": [2, 5, 8]},
        "optimizer": SGD,
        "fleet": {"devices": devices, "nodes": 2},
    }


def check_exact(broker: Any, out: Path) -> None:
    """A run of two devices over this broker gives the oracle's bits."""
    torch.set_num_threads(1)
    shards = make_shards([17, 12], SHAPE, 10, test=5)
    outcome = run_fleet(broker, job(2), shards, out, nodes=2)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    expected, _ = oracle(setting_of(job(2)), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(out / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []


def test_embedded_broker(embedded: BrokerProcess, tmp_path: Path) -> None:
    check_exact(embedded.url, tmp_path)


def test_mqtt_311(mosquitto: BrokerProcess, tmp_path: Path) -> None:
    check_exact(parse_broker(mosquitto.url, version="3.1.1"), tmp_path)


def test_mqtt_311_over_the_embedded_broker(tmp_path: Path) -> None:
    with serving("embedded", protocol="3.1.1") as process:
        check_exact(parse_broker(process.url, version="3.1.1"), tmp_path)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_release_of_paho_that_nobody_has_verified(
    mosquitto: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: Any
) -> None:
    """The client then keeps to public calls: slower, and as exact."""
    monkeypatch.setattr(paho_steps, "VERIFIED", {"0.0": "another"})
    connection.client_class.cache_clear()
    try:
        check_exact(parse_broker(mosquitto.url, version=version), tmp_path)
        assert connection.client_class() is MqttClient
    finally:
        connection.client_class.cache_clear()


def test_tls_with_a_password_and_access_rules(secure_mosquitto: SecureBroker, tmp_path: Path) -> None:
    plain = BrokerAddress(
        secure_mosquitto.process.host, secure_mosquitto.process.port, True, ca=str(secure_mosquitto.ca)
    )
    check_exact(lambda id: replace(plain, user=id, password=secure_mosquitto.passwords[id]), tmp_path)


@contextlib.contextmanager
def recording(broker: BrokerProcess) -> Iterator[list[tuple[str, bytes]]]:
    """Everything that crosses the broker while the block lasts."""
    heard: list[tuple[str, bytes]] = []
    listening, finished = threading.Event(), threading.Event()

    async def listen() -> None:
        async with connect(parse_broker(broker.url), "recorder") as connection:
            await connection.subscribe(("mpsl/#",))
            listening.set()

            async def collect() -> None:
                async for topic, payload, *_ in connection.messages():
                    heard.append((topic, payload))

            task = asyncio.create_task(collect())
            await asyncio.to_thread(finished.wait, 120)
            task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(listen(),))
    thread.start()
    try:
        assert listening.wait(20)
        yield heard
    finally:
        finished.set()
        thread.join(30)


def needles(values: np.ndarray[Any, Any], least: int) -> dict[str, bytes]:
    """The bytes that would give an array away, in any dtype that a codec or a careless author might choose."""
    flat = values.reshape(-1)
    kinds = ["f4", "f8", "f2"] if values.dtype.kind == "f" else ["i8", "i4", "i2", "u1", "f4", "f8"]
    found = {kind: flat.astype(kind).tobytes() for kind in kinds}
    if values.dtype.kind == "f":
        found["bf16"] = (np.ascontiguousarray(flat, "f4").view("u4") >> 16).astype("u2").tobytes()
    return {kind: data for kind, data in found.items() if len(data) >= least}


def test_neither_samples_nor_labels_leave_a_device(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    shards = make_shards([24, 16], SHAPE, 10, test=6)
    with serving("mosquitto") as broker, recording(broker) as heard:
        outcome = run_fleet(broker.url, job(2), shards, tmp_path, nodes=2)
    assert outcome.summary["state"] == "done"
    assert sum(len(payload) for _, payload in heard) > 100_000
    everything = b"\0".join(payload for _, payload in heard)
    for shard in shards.values():
        for sample in [*shard.x, *shard.x_test]:
            # Half a sample is enough to recognise it, wherever a chunk cuts it.
            for kind, data in needles(sample.reshape(-1)[:24], 40).items():
                assert data not in everything, f"a sample of {shard.source} as {kind}"
        # Few labels in a row as single bytes, or sorted, may stand anywhere by chance; all of them cannot.
        wanted = [shard.y[:8], shard.y, np.sort(shard.y)]
        for labels in wanted:
            for kind, data in needles(labels, 8 if labels is wanted[0] else 16).items():
                assert data not in everything, f"labels of {shard.source} as {kind}"
    # The test can fail: an activation is found where it is looked for.
    assert any(b'"kind"' not in payload and topic.split("/")[3] == "seat" for topic, payload in heard)


def test_labels_in_training_order_do_not_leave_either(tmp_path: Path) -> None:
    from mpsl.batches import order

    torch.set_num_threads(1)
    shards = make_shards([24], SHAPE, 10)
    with serving("mosquitto") as broker, recording(broker) as heard:
        outcome = run_fleet(broker.url, job(1), shards, tmp_path, nodes=2)
    assert outcome.summary["state"] == "done"
    everything = b"\0".join(payload for _, payload in heard)
    labels = shards["dev-1"].y
    for number in (1, 2):
        taken = labels[order(24, 0, number, 0, "dev-1", True)]
        for start in range(0, 24, 8):
            for kind, data in needles(taken[start : start + 8], 8).items():
                assert data not in everything, f"labels of batch {start // 8} of round {number} as {kind}"


def counters_of(payload: bytes) -> Counters | None:
    """Somebody's report of its bytes, if it is one."""
    decoded = chunk.decode(payload)
    if not isinstance(decoded, tuple) or decoded[0].total > 1:
        return None
    message = wire.decode(decoded[1])
    return message if isinstance(message, Counters) else None


def test_metrics_count_the_bytes_that_crossed(tmp_path: Path) -> None:
    """What devices say they sent is what the broker saw on the run's binary topics."""
    torch.set_num_threads(1)
    shards = make_shards([24, 16], SHAPE, 10, test=6)
    with serving("mosquitto") as broker, recording(broker) as heard:
        outcome = run_fleet(broker.url, job(2), shards, tmp_path, nodes=2)
    rounds = outcome.summary["rounds"]
    sent: dict[str, int] = {}
    counted: dict[str, tuple[Counters, int]] = {}
    for topic, payload in heard:
        levels = topic.split("/")
        if levels[3] in ("seat", "x"):
            source = levels[-1]
            # What follows the last report is not in the books: a farewell, and what was not acknowledged once more.
            if (counters := counters_of(payload)) and counted.get(source, (None, 0))[0] != counters:
                counted[source] = counters, sent[source]
            sent[source] = sent.get(source, 0) + len(payload)
    assert {source.partition("-")[0] for source in counted} == {"dev", "node"}
    assert all(counters.sent == size for counters, size in counted.values())
    for key, kind in (("device_up", "dev-"), ("nodes_out", "node-")):
        said = sum(each["bytes"][key] for each in rounds)
        assert said == sum(size for source, (_, size) in counted.items() if source.startswith(kind))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("run").startswith("run-") and line.pop("time") for line in lines)
    assert lines == rounds
    figures = {"round", "loss", "accuracy", "test_loss", "samples", "opened_s", "seconds", "durable_s", "bytes"}
    assert set(rounds[0]) == figures | {"devices", "left_out", "term", "cuts"}
