"""A run whose nodes are short of memory commits the same bits, and says what the shortage costs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fleet import make_shards, run_fleet
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of
from broker.engines.engine import BrokerProcess
from mpsl.job import read_job
from mpsl.planning.seat_memory import SeatMemory, memory_strategies, part_sizes
from orchestrator.facts_of_model import facts_of_model

SIZES = [19, 11, 16]


def a_job(micro_batches: int) -> dict[str, Any]:
    return {
        "run": {"name": "short", "batch_size": 8, "rounds": 2, "micro_batches": micro_batches},
        "model": {"name": "digits-cnn", "args": {"dropout": 0.2}, "cuts": [1, 8]},
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001},
        "fleet": {"devices": len(SIZES), "nodes": 1, "admit": 2},
    }


def strategies_of(content: dict[str, Any]) -> tuple[SeatMemory, ...]:
    job = read_job(content, "job")
    return memory_strategies(part_sizes(facts_of_model(job), (1, 8)), job.run.micro_batches)


@pytest.mark.parametrize(
    ("strategy", "micro_batches"), [(1, 1), (2, 1), (2, 2)], ids=["file", "recompute", "micro-batches"]
)
def test_short_of_memory_bit_identical(
    mosquitto: BrokerProcess, tmp_path: Path, strategy: int, micro_batches: int
) -> None:
    torch.set_num_threads(1)
    content = a_job(micro_batches)
    options = strategies_of(content)
    budget = options[strategy].needed(2)
    assert options[strategy - 1].needed(2) > budget, "the strategy before does not fit"
    shards = make_shards(SIZES, (1, 8, 8), 10, test=5)
    outcome = run_fleet(mosquitto.url, content, shards, tmp_path, 1, memory_budget=budget)

    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    expected, _ = oracle(setting_of(content), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []

    plan = json.loads((tmp_path / "plan.json").read_text())
    (seat,) = plan["seats"]
    assert (seat["on_disk"], seat["recompute"], plan["admit"]) == (True, strategy == 2, 2)
    said = [facts["reason"] for _, event, facts in outcome.log if event == "short-of-memory"]
    assert said == ([plan["shortfall"]] if strategy == 2 else [])
    if strategy == 2:
        assert "activations are computed again: about 25% less throughput" in plan["shortfall"]
        assert f"{options[1].needed(2):,} bytes would avoid it" in plan["shortfall"]
