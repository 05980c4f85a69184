"""The broker is stopped and started again in the middle of a run, as for an update: its last wills end nothing."""

import asyncio
import contextlib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from brokers import serving
from fleet import make_shards, run_fleet

from broker.address import parse_broker, parse_brokers
from broker.connection import connect
from mpsl.errors import BrokerError
from mpsl.topics import client_id

PATIENCE_S = 120.0


def free_port() -> int:
    """A port that nobody has at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def rounds_seen(url: str, count: int) -> None:
    """Wait until the metrics of so many rounds have been published."""
    async with asyncio.timeout(PATIENCE_S):
        async with connect(parse_broker(url), client_id("test", "watch", "0")) as watch:
            await watch.subscribe(("mpsl/v1/+/run/+/metrics",))
            seen = 0
            async for _ in watch.messages():
                seen += 1
                if seen == count:
                    return


@pytest.mark.slow
def test_a_run_survives_a_broker_that_is_stopped_and_started_again(tmp_path: Path) -> None:
    port, shards = free_port(), make_shards((60, 40), (6,), 3, test=8)
    job = {
        "run": {"name": "restart", "rounds": 60, "batch_size": 4},
        "model": {"name": "mlp", "args": {"in_features": 6, "hidden": [8, 8], "num_classes": 3}, "cuts": [1, 2]},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "fleet": {"devices": 2, "nodes": 1},
    }
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as brokers:
        with serving("mosquitto", host="127.0.0.1", port=port) as process:
            running = pool.submit(run_fleet, process.url, job, shards, tmp_path, 1, PATIENCE_S)
            asyncio.run(rounds_seen(process.url, 2))
        assert not running.done(), "the broker went in the middle of the run"
        brokers.enter_context(serving("mosquitto", host="127.0.0.1", port=port))
        outcome = running.result(PATIENCE_S)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    assert any(event == "disconnected" for _, event, _ in outcome.log)
    assert len(outcome.summary["rounds"]) == 60


@pytest.mark.slow
def test_a_run_moves_to_the_next_broker_when_its_broker_dies(tmp_path: Path) -> None:
    """Nothing is retained at the second broker: everyone says there again what it has to say."""
    shards = make_shards((60, 40), (6,), 3, test=8)
    job = {
        "run": {"name": "failover", "rounds": 60, "batch_size": 4},
        "model": {"name": "mlp", "args": {"in_features": 6, "hidden": [8, 8], "num_classes": 3}, "cuts": [1, 2]},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "fleet": {"devices": 2, "nodes": 1},
    }
    with ThreadPoolExecutor(1) as pool, serving("mosquitto") as second, contextlib.ExitStack() as brokers:
        first = brokers.enter_context(serving("mosquitto"))
        both = parse_brokers((first.url, second.url))
        running = pool.submit(run_fleet, both, job, shards, tmp_path, 1, PATIENCE_S)
        asyncio.run(rounds_seen(first.url, 2))
        assert not running.done(), "the broker went in the middle of the run"
        brokers.close()
        outcome = running.result(PATIENCE_S)
    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    assert len(outcome.summary["rounds"]) == 60


def test_where_no_broker_answers_the_error_names_each() -> None:
    urls = [f"mqtt://127.0.0.1:{free_port()}" for _ in range(2)]

    async def fail() -> None:
        async with connect(parse_brokers(urls), client_id("test", "none", "0"), patience_s=4.0):
            pass

    with pytest.raises(BrokerError) as caught:
        asyncio.run(fail())
    assert all(url in str(caught.value) for url in urls)
