"""Who sits where: the plan that a job, a model and a fleet make, or the reason why there can be none."""

import dataclasses
import json
from typing import Any

import pytest

from mpsl import PROTOCOL, facts
from mpsl.job import Job, read_job
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator_jobs import ModelBuilt
from mpsl.machines.seating import Seating, seat_everyone
from mpsl.plan import Plan
from mpsl.planning.seat_memory import memory_strategies, part_sizes
from mpsl.topics import Branch

MODEL = ModelBuilt(
    block_costs=(1.0, 4.0, 2.0, 2.0, 3.0, 1.0),
    state_bytes=(10, 20, 30, 40, 50, 60),
    output_bytes=(1000, 2000, 3000, 4000, 5000, 6000),
    stored_bytes=(1, 2, 3, 4, 5, 6),
    optimizer_bytes=(100, 200, 300, 400, 500, 600),
    single_value_norms=(),
    input_shape=(1, 8, 8),
    classes=10,
    parameters=52,
)


def job(**fleet: Any) -> Job:
    cuts = fleet.pop("cuts", None)
    model = {"name": "digits-cnn"} | ({} if cuts is None else {"cuts": cuts})
    wire = {"chunk_bytes": fleet.pop("chunk_bytes", 4096)}
    return read_job(
        {
            "run": {"name": "digits", "rounds": 1, "batch_size": 8},
            "model": model,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "fleet": {"devices": 3, "nodes": 2} | fleet,
            "wire": wire,
        },
        "job",
    )


def presence(branch: Branch, id: str, **info: Any) -> Presence:
    status = {"state": "online", "boot": f"boot-{id}", "protocol": PROTOCOL}
    return Presence(branch, id, status, {"boot": f"boot-{id}", "run": None, **info}, {}, 0.0)


def seating(*budgets: int | None, devices: int = 3) -> Seating:
    nodes = [presence("node", f"node-{n}", memory_budget=budget) for n, budget in enumerate(budgets, start=1)]
    return Seating(nodes, [presence("dev", f"dev-{n}") for n in range(1, devices + 1)], "digits-0a1b2c", "boot-orch")


def plan_of(job: Job, fleet: Seating) -> Plan:
    plan = seat_everyone(job, MODEL, fleet)
    assert isinstance(plan, Plan), plan
    return plan


def test_stages_are_given_in_the_order_of_the_nodes() -> None:
    plan = plan_of(job(cuts=[1, 3, 5]), seating(None, None))
    assert [(s.stage, s.replica, s.node, s.boot, s.blocks) for s in plan.seats] == [
        (1, 0, "node-1", "boot-node-1", (1, 3)),
        (2, 0, "node-2", "boot-node-2", (3, 5)),
    ]
    assert plan.first_blocks == (0, 1)
    assert plan.last_blocks == (5, 6)
    assert plan.chain("dev-2") == ["1_0", "2_0"]
    assert plan.devices["dev-3"].boot == "boot-dev-3"
    assert (plan.run, plan.orchestrator, plan.term, plan.hops, plan.blocks) == ("digits-0a1b2c", "boot-orch", 1, 2, 6)


def test_without_cuts_the_costliest_hop_is_as_cheap_as_can_be() -> None:
    assert plan_of(job(), seating(None, None)).cuts == (1, 3, 5)
    assert plan_of(job(nodes=1), seating(None)).cuts == (1, 5)


def test_no_hops_leave_everything_to_the_device() -> None:
    plan = plan_of(job(cuts=[], nodes=0), seating())
    assert plan.seats == ()
    assert plan.first_blocks == (0, 6)
    assert plan.last_blocks == (6, 6)
    assert plan.chain("dev-1") == []
    assert plan.admit == 3


def test_more_nodes_than_hops_are_standbys() -> None:
    plan = plan_of(job(cuts=[1, 5], nodes=3), seating(None, None, None))
    assert [seat.node for seat in plan.seats] == ["node-1"]
    assert plan.seat_of("node-2") is None


def test_more_hops_than_blocks_is_a_reason() -> None:
    reason = seat_everyone(job(nodes=5), MODEL, seating(*[None] * 5))
    assert isinstance(reason, str)
    assert "5 hops need at least 7 blocks" in reason


def test_admission_is_the_jobs_or_the_starting_formula() -> None:
    assert plan_of(job(admit=2, cuts=[1, 5]), seating(None, None)).admit == 2
    assert plan_of(job(admit=99, cuts=[1, 5]), seating(None, None)).admit == 3, "no more than there are devices"
    # cycle 13, slowest hop 6: ceil(1.5 * 13 / 6) = 4, and 20 devices make 5 waves of 4
    assert plan_of(job(cuts=[1, 3, 5], devices=20), seating(None, None, devices=20)).admit == 4


def test_a_budget_lowers_the_admission_and_too_small_a_one_is_a_reason() -> None:
    cuts = [1, 3, 5]
    memory, disk, again = memory_strategies(part_sizes(MODEL, (1, 3)), job().run.micro_batches)
    assert (memory.on_disk, disk.on_disk, again.recompute) == (False, True, True)
    three = job(cuts=cuts, admit=3)
    plan = plan_of(three, seating(memory.needed(3), None))
    assert (plan.admit, plan.seats[0].on_disk, plan.shortfall) == (3, False, "")
    plan = plan_of(three, seating(memory.needed(3) - 1, None))
    assert (plan.admit, plan.seats[0].on_disk, plan.shortfall) == (3, True, "")
    plan = plan_of(three, seating(disk.needed(2), None))
    assert (plan.admit, plan.admit_most) == (2, 2)
    assert "of node-1" in plan.shortfall
    assert "lets 2 of the 3 devices in" in plan.shortfall
    assert f"{disk.needed(3):,} bytes would avoid it" in plan.shortfall
    reason = seat_everyone(job(cuts=cuts), MODEL, seating(disk.needed(1) - 1, None))
    assert isinstance(reason, str)
    assert "seat 1_0 on node-1" in reason
    assert f"{disk.needed(1):,}" in reason
    assert f"{disk.needed(1) - 1:,}" in reason
    assert "raise it" in reason


def test_the_largest_message_covers_every_edge_and_a_chunk() -> None:
    assert plan_of(job(cuts=[1, 3, 5]), seating(None, None)).message_bytes >= 2 * 5000
    assert plan_of(job(cuts=[1, 3, 5], chunk_bytes=10**6), seating(None, None)).message_bytes >= 10**6


def test_a_plan_travels_as_json_and_comes_back() -> None:
    plan = plan_of(job(cuts=[1, 3, 5]), seating(None, None))
    assert facts.read(Plan, json.loads(json.dumps(facts.plain(plan))), "plan") == plan
    assert plan.protocol == PROTOCOL
    assert plan.boots()["orch"] == ("boot-orch", "orch")
    assert plan.boots()["node-2"] == ("boot-node-2", "2_0")
    other = plan.with_boot("dev-1", "reborn")
    assert other.boots()["dev-1"] == ("reborn", "dev-1")
    assert other.revision == plan.revision + 1
    assert dataclasses.replace(other, devices=plan.devices, revision=plan.revision) == plan


@pytest.mark.parametrize("branch", ["dev-1", "node-1"])
def test_nothing_of_a_device_but_its_boot_is_in_the_plan(branch: str) -> None:
    fleet = seating(None, None)
    fleet.devices[0].info["secret"] = "of dev-1"
    assert "secret" not in json.dumps(facts.plain(plan_of(job(), fleet)))
    assert branch in json.dumps(facts.plain(plan_of(job(), fleet)))
