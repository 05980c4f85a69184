"""`mpsl bench chaos`: one fault of each kind over mosquitto, exact at the end; and what its figures are made of."""

import asyncio
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fleet import make_shards
from safetensors.torch import save_file

from benchmarks import chaos
from benchmarks.cables import can_be_laid
from benchmarks.chaos import ROLES, figures_of, schedule
from benchmarks.disturbed_run import Outcome, Planned, differences, disturbed_run, retained
from benchmarks.oracle import oracle, setting_of
from benchmarks.recovery import Batch, Disturbance, by_role, costs, counting, useful_share
from benchmarks.supervisor import marked, supervising
from broker.address import parse_broker
from broker.connection import connect
from broker.engines.engine import BrokerProcess
from broker.options import NetworkOptions
from mpsl.machines.machine import as_json
from mpsl.publish import Publish
from mpsl.topics import Topics

PATIENCE_S = 60.0


@pytest.mark.slow
def test_a_run_survives_one_fault_of_each_kind_and_is_exact(tmp_path: Path) -> None:
    plan = [
        Planned(0.5, "node-2"), Planned(5.0, "dev-3"), Planned(3.0, "broker"), Planned(3.0, "dev-1", 2.0),
        Planned(2.0, "orch"), *[Planned(4.0, "dev-2", 3.0, True)] * can_be_laid(),
    ]  # fmt: skip
    outcome = asyncio.run(disturbed_run(tmp_path, plan, "mosquitto"))
    assert (outcome.different, outcome.left, outcome.own_ends) == ([], [], [])
    assert outcome.ok
    roles = ["node", "device", "broker", "device", "orchestrator", *["device"] * can_be_laid(), "orchestrator"]
    assert [fault.role for fault in outcome.faults] == roles
    assert "mpsl-" not in os.popen("ip netns list; ip link show type bridge 2>&1").read(), "no cable is left"
    figures = figures_of(outcome)
    assert figures["terms"] >= 3, "a node and the orchestrator died, the latter twice"
    assert all(row["next_batch_s"] is not None for row in figures["faults"])
    assert figures["batches_lost"] > 0


def test_a_model_that_is_not_the_sum_in_that_order_is_found(tmp_path: Path) -> None:
    model = {"name": "mlp", "args": {"in_features": 6, "hidden": [8, 8], "num_classes": 3}}
    job = {"run": {"rounds": 1, "batch_size": 4}, "model": model, "optimizer": {"name": "sgd", "lr": 0.05}}
    shards = {id: (each.x, each.y) for id, each in make_shards([9, 14, 11], (6,), 3).items()}
    line = {"round": 1, "devices": list(shards), "cuts": [1, 2]}
    state, _ = oracle(setting_of(job), shards, [line["devices"]])
    save_file(state, tmp_path / "model.safetensors")
    assert differences({"job": job}, [line], shards, tmp_path) == []
    assert differences({"job": job}, [{**line, "devices": [*shards][::-1]}], shards, tmp_path) != []
    assert differences({"job": job}, [{**line, "devices": [*shards][:2]}], shards, tmp_path) == sorted(state)
    assert differences({"job": job}, [], shards, tmp_path) == ["rounds are missing in metrics.jsonl"]


def at(term: int, round: int, device: str = "dev-1", attempt: int = 1, batch: int = 0) -> Batch:
    return Batch(term, round, device, attempt, 0, batch)


ROUNDS: list[dict[str, Any]] = [
    {"round": 1, "term": 1, "devices": ["dev-1", "dev-2"]},
    {"round": 2, "term": 2, "devices": ["dev-1"]},
]
RESTORED = [{"round": 2, "term": 2, "devices": ["dev-1", "dev-2"], "accepted_under": {"dev-1": 2, "dev-2": 1}}]
"""The second round went on from a savepoint."""
BATCHES = {
    at(1, 1): 1.0, at(1, 1, batch=1): 2.0, at(1, 1, "dev-2"): 3.0,
    at(1, 2): 4.0, at(1, 2, "dev-2"): 11.0,  # the round was done again under term 2
    at(2, 2, "dev-2"): 17.0,  # it was left out
    at(2, 2, attempt=1): 18.0, at(2, 2, attempt=2): 20.0, at(2, 2, attempt=2, batch=1): 21.0,
}  # fmt: skip
NODE = Disturbance("node", "node-1", 10.0, restarted_at=13.0)
DEVICE = Disturbance("device", "dev-1", 18.5, seconds=1.0)


def test_what_counts_is_of_the_term_the_set_and_the_last_attempt_of_a_committed_round() -> None:
    assert sorted(counting(BATCHES, ROUNDS).values()) == [1.0, 2.0, 3.0, 20.0, 21.0]


def test_what_was_accepted_before_a_savepoint_counts_under_its_own_term() -> None:
    assert sorted(counting(BATCHES, RESTORED).values()) == [11.0, 20.0, 21.0]


def test_a_fault_costs_the_time_to_the_next_batch_that_counts_and_what_was_lost_before_and_after() -> None:
    node, device = costs([NODE, DEVICE], BATCHES, ROUNDS)
    assert (node["next_batch_s"], node["restarted_s"], node["beyond_s"]) == (10.0, 3.0, 7.0)
    assert (node["overlapped"], device["overlapped"]) == (True, True), "the second came before the first was overcome"
    assert (device["next_batch_s"], device["beyond_s"], device["own_next_batch_s"]) == (1.5, 0.5, 1.5)
    assert (node["batches_lost"], device["batches_lost"]) == (4, 0)
    (last,) = costs([Disturbance("broker", "broker", 30.0)], BATCHES, ROUNDS)
    assert (last["next_batch_s"], last["batches_lost"]) == (None, 4)


def test_medians_leave_out_faults_that_overlapped() -> None:
    rows = by_role(costs([NODE, DEVICE], BATCHES, ROUNDS))
    assert rows["node killed"] == {"faults": 1, "overlapped": 1}
    rows = by_role(costs([Disturbance("device", "dev-1", 2.5, seconds=3.0), replace(DEVICE, at=20.5)], BATCHES, ROUNDS))
    assert (rows["device stopped"]["faults"], rows["device stopped"]["overlapped"]) == (2, 0)
    assert rows["device stopped"]["next_batch_s"] == {"median": 0.5, "worst": 0.5}
    stopped = costs([Disturbance("device", "dev-1", 2.5, seconds=3.0), replace(DEVICE, at=5.0)], BATCHES, ROUNDS)
    assert [row["overlapped"] for row in stopped] == [True, True], "the first was still stopped"


def test_useful_is_the_rate_with_faults_compared_with_that_before_them() -> None:
    counted = sorted(counting(BATCHES, ROUNDS).values())
    end = Disturbance("orchestrator", "orch", 30.0)
    assert useful_share([NODE, end], counted, 0.0) == pytest.approx((2 / 20) / (3 / 10))


def test_a_schedule_is_of_its_seed_and_gives_each_role_its_turn() -> None:
    plan = schedule(64, 10.0, 3)
    assert plan == schedule(64, 10.0, 3) != schedule(64, 10.0, 4)
    roles = [{"dev": "device", "nod": "node", "orc": "orchestrator", "bro": "broker"}[each.victim[:3]] for each in plan]
    assert Counter(roles) == dict.fromkeys(ROLES, 16)
    assert all(3.0 <= each.pause_s <= 17.0 for each in plan)
    assert sum(each.stopped_s > 0 for each in plan) == 16
    assert len(schedule(3, 10.0, 0)) == 3
    assert not any(each.is_cut for each in plan)
    cut = [each.victim for each in schedule(64, 10.0, 3, cables=True) if each.is_cut]
    assert len(cut) == 12
    assert "broker" not in cut
    assert {each.victim for each in schedule(64, 10.0, 3, standbys=0)}.isdisjoint({"node-3"})


@pytest.mark.parametrize(("different", "left"), [([], []), (["block.0.weight"], []), ([], ["process 7"])])
def test_the_status_is_one_where_a_promise_was_not_kept(
    different: list[str], left: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def run(*_: object, **__: object) -> Outcome:
        return Outcome([NODE, DEVICE], BATCHES, {"state": "done"}, ROUNDS, 0.0, different, left)

    monkeypatch.setattr(chaos, "disturbed_run", run)
    monkeypatch.setattr(chaos, "choose", lambda engine: engine)
    result = CliRunner().invoke(chaos.command, ["--kills", "2"])
    assert result.exit_code == (1 if different or left else 0)
    found = json.loads(result.output.splitlines()[-1])
    assert (found["benchmark"], found["exact"], found["left_over"]) == ("chaos", not different, left)
    assert ("bit for bit" in result.output) == (not different)
    quiet = CliRunner().invoke(chaos.command, ["--kills", "2", "--json"])
    assert len(quiet.output.splitlines()) == 1


@pytest.mark.slow
def test_topics_that_are_left_are_named(mosquitto: BrokerProcess) -> None:
    network = NetworkOptions(parse_broker(mosquitto.url), Topics("chaos-left"), as_json=False, verbose=0)

    async def scenario() -> list[str]:
        topics = network.topics
        said = {
            topics.participant("node", "node-1", "status"): {"state": "offline"},
            topics.participant("node", "node-1", "info"): {"run": None},
            topics.participant("dev", "dev-1", "status"): {"state": "online"},
            topics.run("r-1", "plan"): {"term": 1},
        }
        async with connect(network.address, "chaos-left") as connection:
            for topic, content in said.items():
                await connection.publish(Publish(topic, as_json(content), 1, True))
            found = await retained(network)
            for topic in said:
                await connection.publish(Publish(topic, b"", 1, True))
        return found

    found = asyncio.run(scenario())
    assert [each.split()[1].split("/", 3)[3] for each in sorted(found)] == ["dev/dev-1/status", "run/r-1/plan"]


@pytest.mark.slow
def test_who_fails_is_started_again_and_named_and_nobody_is_left(tmp_path: Path) -> None:
    token = f"test-{os.getpid()}-{sys.version_info.minor}"

    async def scenario() -> list[str]:
        async with asyncio.timeout(PATIENCE_S), supervising(tmp_path, {"CHAOS_TEST": token}) as supervisor:
            service = supervisor.start("node-1", "node", ["node", "--id", "NOT AN ID"])
            await service.spoke.wait()
            first = service.pid
            while len(service.own_ends) < 2:
                service.spoke.clear()
                await service.spoke.wait()
            assert service.pid != first
            return supervisor.own_ends

    ends = asyncio.run(scenario())
    assert "node-1 ended with status 2" in ends[0]
    assert "NOT AN ID" in ends[0]
    assert marked("CHAOS_TEST", token) == []
