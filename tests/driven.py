"""Performers without machines, in a process of their own: what they really take of memory. Run as a script by tests.

    driven.py node BUDGET MODEL     two devices, Adam, two batches each, on the way that BUDGET bytes allow
    driven.py device                a device of the digits model, three batches

Prints one JSON object: bytes before the run, the most resident, and what the formula allows.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compute_node.memory_usage import peak_resident_bytes, resident_bytes
from compute_node.performer import HopPerformer
from mpsl.job import Job, read_job
from mpsl.machines.census import Presence
from mpsl.machines.jobs import (
    Backward,
    CommitPart,
    CopyPart,
    Export,
    Fold,
    Forward,
    HeadBackward,
    HeadForward,
    Prepare,
    StartRound,
    TailStep,
)
from mpsl.machines.seating import Seating, seat_everyone
from mpsl.machines.session_id import SessionId
from mpsl.messages import Tensor, Ticket
from mpsl.nn.allocation import return_large_at_once
from mpsl.nn.tensors import encode
from mpsl.plan import Plan
from mpsl.planning.seat_memory import memory_strategies, part_sizes
from orchestrator.facts_of_model import facts_of_model

SESSION = SessionId("driven-0a1b2c", 1)

MODELS: dict[str, tuple[dict[str, Any], tuple[int, ...], int]] = {
    "mlp": ({"hidden": [2000] * 4, "image_size": 28}, (1, 4), 16),
    "resnet18": ({"num_classes": 10, "image_size": 32}, (1, 9), 16),
    "digits-cnn": ({"dropout": 0.2}, (1, 8), 32),
}


def a_job(model: str, optimizer: str = "adam") -> Job:
    """One round of two devices over one hop."""
    args, cuts, batch = MODELS[model]
    content = {
        "run": {"name": "driven", "rounds": 1, "batch_size": batch},
        "model": {"name": model, "args": args, "cuts": list(cuts)},
        "optimizer": {"name": optimizer, "lr": 0.001},
        "fleet": {"devices": 2, "nodes": 1, "admit": 2},
    }
    return read_job(content, "job")


def facts(job: Job) -> Any:
    """What the orchestrator knows of the model, without holding it."""
    return facts_of_model(job)


def a_plan(job: Job, budget: int | None) -> Plan:
    """The plan of one node with this budget; raises RuntimeError with the reason where there is none."""
    node = Presence("node", "node-1", {"boot": "b"}, {"memory_budget": budget})
    devices = [Presence("dev", f"dev-{number}", {"boot": "b"}) for number in (1, 2)]
    plan = seat_everyone(job, facts(job), Seating([node], devices, SESSION.run, "b"))
    if isinstance(plan, str):
        raise RuntimeError(plan)
    return plan


def shapes(job: Job) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What goes into the hop, and what comes out of it, for one batch."""
    from mpsl.nn.cost import block_costs

    assert job.model.cuts is not None
    costs = block_costs(job.model, job.run.batch_size)
    first, last = (costs[cut - 1].output_shape for cut in job.model.cuts)
    return (job.run.batch_size, *first), (job.run.batch_size, *last)


def tensor(shape: tuple[int, ...]) -> Tensor:
    """A tensor from a device."""
    return encode(torch.from_numpy(np.full(shape, 0.01, np.float32)), "fp32")


def node(budget: int, model: str) -> dict[str, Any]:
    """A whole round of a hop."""
    return_large_at_once()
    job = a_job(model)
    plan = a_plan(job, budget)
    into, out = shapes(job)
    warm = torch.nn.Conv2d(1, 1, 3)(torch.ones(1, 1, 8, 8)).sum() + torch.nn.Linear(8, 8)(torch.ones(1, 8)).sum()
    warm.backward()
    before = resident_bytes()
    performer = HopPerformer("node-1", Path("/var/tmp"), budget=budget)
    performer.perform(Prepare(plan), SESSION)
    devices = [f"dev-{number}" for number in range(1, plan.admit + 1)]
    for array in performer.sessions[SESSION].committed.arrays:
        array[...] = 0.001
    for device in devices:
        performer.perform(CopyPart(device, 1, 1), SESSION)
    for batch in range(2):
        tickets = [Ticket(1, 1, device, 1, 0, batch, 0, 1) for device in devices]
        for ticket in tickets:
            performer.perform(Forward(ticket, tensor(into)), SESSION)
        for ticket in tickets:
            performer.perform(Backward(ticket, tensor(out)), SESSION)
    for device in devices:
        performer.perform(Fold(device, 1, 10), SESSION)
    performer.perform(Export("sum", 1), SESSION)
    result = performer.perform(CommitPart(1, 10, False), SESSION)
    seat = plan.seats[0]
    return {
        "grown": peak_resident_bytes() - before,
        "admit": plan.admit,
        "on_disk": seat.on_disk,
        "recompute": seat.recompute,
        "holders": dict(result.memory or {}),
    }


def device() -> dict[str, Any]:
    """A round of a device that keeps its first and its last block, with all that its process imports."""
    import broker.connection
    import broker.driver
    import device_agent.command
    from device_agent.performer import DevicePerformer
    from device_agent.shard_source import Shard

    assert broker.connection
    assert broker.driver
    assert device_agent.command
    chance = np.random.default_rng(0)
    shard = Shard("dev-1", chance.random((96, 1, 8, 8), np.float32), chance.integers(0, 10, 96), *_no_test_data())
    performer = DevicePerformer("dev-1", shard)
    job = a_job("digits-cnn")
    plan = a_plan(job, None)
    into, out = shapes(job)
    performer.perform(Prepare(plan), SESSION)
    performer.perform(StartRound(1, 1), SESSION)
    for batch in range(3):
        ticket = Ticket(1, 1, "dev-1", 1, 0, batch, 0, 1)
        performer.perform(HeadForward(ticket), SESSION)
        performer.perform(TailStep(ticket, tensor(out)), SESSION)
        performer.perform(HeadBackward(ticket, tensor(into)), SESSION)
    return {"resident": peak_resident_bytes()}


def _no_test_data() -> tuple[Any, Any]:
    return np.empty((0, 1, 8, 8), np.float32), np.empty(0, np.int64)


def allowed(model: str, on_disk: bool, recompute: bool, copies: int) -> int:
    """The budget that the formula asks for."""
    job = a_job(model)
    assert job.model.cuts is not None
    blocks = (job.model.cuts[0], job.model.cuts[-1])
    found = [
        s
        for s in memory_strategies(part_sizes(facts(job), blocks), 1)
        if (s.on_disk, s.recompute) == (on_disk, recompute)
    ]
    return found[0].needed(copies)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(device() if sys.argv[1] == "device" else node(int(sys.argv[2]), sys.argv[3])))
