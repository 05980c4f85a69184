"""The promise: split training gives the weights of FedAvg of the unsplit model, bit for bit, over a real broker."""

import json
from pathlib import Path

import pytest
import torch
from fleet import SGD, make_shards, run_fleet
from safetensors.torch import load_file

from benchmarks.oracle import oracle, setting_of, stages_of
from broker.engines.engine import BrokerProcess
from mpsl.planning.plan_file import PlannedRun, PlannedSeat

DIGITS = ("digits-cnn", {"dropout": 0.2}, (1, 8, 8))
MLP = (
    "mlp",
    {"hidden": [12, 12, 12, 12], "image_size": 4, "dropout": 0.3, "batch_norm": True, "residual": True},
    (1, 4, 4),
)
LENET = ("lenet5", {}, (1, 28, 28))
ADAM = {"name": "adam", "lr": 0.002, "weight_decay": 0.01}

CASES = {
    "no-hops": (DIGITS, [], [19, 11], SGD, {"batch_size": 8, "rounds": 2}),
    "no-hops-micro-batches": (
        MLP, [], [22, 14], ADAM, {"batch_size": 8, "rounds": 2, "micro_batches": 3, "local_epochs": 2},
    ),
    "one-hop-one-device": (DIGITS, [1, 8], [29], SGD, {"batch_size": 8, "rounds": 2}),
    "one-hop-adam": (LENET, [1, 4], [17, 9, 23], ADAM, {"batch_size": 8, "rounds": 2}),
    "two-hops": (DIGITS, [2, 5, 8], [19, 27, 10], SGD, {"batch_size": 8, "rounds": 2, "local_epochs": 2}),
    "two-hops-micro-batches": (DIGITS, [2, 5, 8], [19, 27], ADAM, {"batch_size": 8, "rounds": 2, "micro_batches": 2}),
    "two-hops-seldom-evaluated": (MLP, [1, 2, 4], [14, 18], SGD, {"batch_size": 4, "rounds": 3, "evaluate_every": 2}),
    "three-hops-five-devices": (
        DIGITS, [1, 3, 5, 8], [9, 17, 12, 21, 10], SGD,
        {"batch_size": 8, "rounds": 2, "local_epochs": 2, "micro_batches": 2, "seed": 7},
    ),
    "not-shuffled": (MLP, [1, 3], [10, 14], SGD, {"batch_size": 4, "rounds": 2, "shuffle": False}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("evaluated", [True, False], ids=["evaluated", "no-test-data"])
def test_bit_identical(mosquitto: BrokerProcess, tmp_path: Path, name: str, evaluated: bool) -> None:
    torch.set_num_threads(1)
    (model, args, shape), cuts, sizes, optimizer, run = CASES[name]
    job = {
        "run": {"name": "exact", **run},
        "model": {"name": model, "args": args, "cuts": cuts},
        "optimizer": optimizer,
        "fleet": {"devices": len(sizes), "nodes": max(0, len(cuts) - 1)},
    }
    shards = make_shards(sizes, shape, 10, test=11 if evaluated else 0)
    outcome = run_fleet(mosquitto.url, job, shards, tmp_path, max(0, len(cuts) - 1))

    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    assert [sorted(devices) for devices in accepted] == [sorted(shards)] * run["rounds"]
    expected, losses = oracle(setting_of(job), {id: (s.x, s.y) for id, s in shards.items()}, accepted)
    actual = load_file(tmp_path / "model.safetensors")
    assert actual.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert different == []
    assert [m["loss"] for m in outcome.summary["rounds"]] == pytest.approx(losses, rel=1e-6)
    assert (outcome.summary["accuracy"] is not None) == evaluated
    assert {stop.status for stop in outcome.stops.values()} == {0}


PLANNED = PlannedRun(
    (2, 5, 8),
    (
        PlannedSeat(1, 0, "node-4", (2, 5)),
        PlannedSeat(1, 1, "node-1", (2, 5)),
        PlannedSeat(2, 0, "node-3", (5, 8)),
        PlannedSeat(2, 1, "node-2", (5, 8)),
    ),
    {"dev-1": (0, 0), "dev-2": (1, 0), "dev-3": (1, 1), "dev-4": (1, 0)},
    3,
)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_replicas_of_a_stage_add_up_each_their_own_devices_and_are_merged_in_order(
    mosquitto: BrokerProcess, tmp_path: Path, micro_batches: int
) -> None:
    torch.set_num_threads(1)
    model, args, shape = DIGITS
    job = {
        "run": {"name": "replicas", "rounds": 2, "batch_size": 8, "micro_batches": micro_batches},
        "model": {"name": model, "args": args},
        "optimizer": SGD,
        "fleet": {"devices": 4, "nodes": 4},
    }
    shards = make_shards([19, 27, 10, 15], shape, 10, test=6)
    outcome = run_fleet(mosquitto.url, job, shards, tmp_path, 4, planned=PLANNED)

    assert outcome.summary["state"] == "done", outcome.summary["reason"]
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert [(seat["node"], seat["stage"], seat["replica"]) for seat in plan["seats"]] == [
        (seat.node, seat.stage, seat.replica) for seat in PLANNED.seats
    ]
    accepted = [metrics["devices"] for metrics in outcome.summary["rounds"]]
    data = {id: (s.x, s.y) for id, s in shards.items()}
    expected, losses = oracle(setting_of(job), data, accepted, [stages_of(each) for each in outcome.summary["rounds"]])
    actual = load_file(tmp_path / "model.safetensors")
    assert [name for name in expected if not torch.equal(actual[name], expected[name])] == []
    assert [m["loss"] for m in outcome.summary["rounds"]] == pytest.approx(losses, rel=1e-6)

    # Added up in one sum a round is the same but for the order of the additions. A second round begins elsewhere, and
    # a maximum that falls the other way (ReLU, pooling) makes a difference of another size.
    in_one, _ = oracle(setting_of(job), data, accepted[:1])
    in_two, _ = oracle(setting_of(job), data, accepted[:1], [stages_of(outcome.summary["rounds"][0])])
    initial = load_file(tmp_path / "initial.safetensors")
    apart = torch.cat([(in_two[name] - in_one[name]).flatten() for name in in_one])
    update = torch.cat([(in_one[name] - initial[name]).flatten() for name in in_one])
    assert apart.norm() <= 1e-5 * update.norm()
