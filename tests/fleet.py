"""A whole fleet in one test process: the real machines and performers under the real driver, over a real broker.

One worker thread serves all, for torch's generator belongs to the process. Tests of processes are elsewhere.
"""

import asyncio
import secrets
from collections.abc import Callable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broker.address import BrokerAddress, parse_broker
from broker.connection import connect
from broker.driver import Driver
from broker.log import Logger
from broker.worker import Worker
from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from device_agent.shard_source import Shard
from mpsl.allowed_models import AllowedModels
from mpsl.job import read_job
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Stop
from mpsl.machines.hop import HopMachine
from mpsl.machines.orchestrator import OrchestratorMachine
from mpsl.nn.profiler import Profiler
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import BRANCHES, ParticipantTopic, Topics, client_id
from orchestrator.performer import OrchestratorPerformer
from orchestrator.plan_option import job_as_planned

SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.001}
"""The optimizer of most tests."""


class SharedWorker(Worker):
    """Outlives the drivers."""

    def close(self) -> None:
        pass


@dataclass
class Outcome:
    """What a run left."""

    summary: dict[str, Any]
    stops: dict[str, Stop]
    out: Path
    log: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)


def make_shards(
    sizes: list[int], shape: tuple[int, ...], classes: int, test: int = 0, seed: int = 0
) -> dict[str, Shard]:
    """Random shards of these sizes, dev-1 and on."""
    chance = np.random.default_rng(seed)

    def one(id: str, size: int) -> Shard:
        x = chance.standard_normal((size + test, *shape), dtype=np.float32)
        y = chance.integers(0, classes, size + test)
        return Shard(id, x[:size], y[:size], x[size:], y[size:])

    return {f"dev-{number}": one(f"dev-{number}", size) for number, size in enumerate(sizes, start=1)}


def run_fleet(
    broker: str | BrokerAddress | Callable[[str], BrokerAddress],
    job: dict[str, Any],
    shards: dict[str, Shard],
    out: Path,
    nodes: int,
    timeout: float = 120.0,
    memory_budget: int | None = None,
    planned: PlannedRun | None = None,
    info: dict[str, Any] | None = None,
    profiler: Profiler | None = None,
    orchestrator_last: bool = False,
    net: str | None = None,
) -> Outcome:
    """Run a job with these shards over the broker (by id where each has a user) and wait till all have left.

    `info` is what everyone says of its machine, and `profiler` what answers where they are asked how fast they are.
    With `orchestrator_last` it connects once everyone else has been heard, as in a fleet of services.
    """
    address = broker if callable(broker) else _same(parse_broker(broker) if isinstance(broker, str) else broker)
    return asyncio.run(
        _run(
            address,
            job,
            shards,
            out,
            nodes,
            timeout,
            memory_budget,
            planned,
            info or {},
            profiler,
            orchestrator_last,
            net,
        )
    )


def _same(address: BrokerAddress) -> Callable[[str], BrokerAddress]:
    return lambda id: address


async def _run(
    address: Callable[[str], BrokerAddress],
    job: dict[str, Any],
    shards: dict[str, Shard],
    out: Path,
    nodes: int,
    timeout: float,
    memory_budget: int | None,
    planned: PlannedRun | None,
    info: dict[str, Any],
    profiler: Profiler | None,
    orchestrator_last: bool,
    net: str | None,
) -> Outcome:
    topics = Topics(net or f"t-{secrets.token_hex(6)}")
    executor = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
    worker = SharedWorker(executor)
    log: list[tuple[str, str, dict[str, Any]]] = []

    def logger(id: str) -> Logger:
        return lambda level, event, facts: log.append((id, event, {"level": level, **facts}))

    def driver(machine: Any, performer: Any, role: str, id: str) -> Driver:
        return Driver(machine, performer, address(id), client_id(role, id, machine.boot), logger(id), worker=worker)

    training = read_job(job, "job")
    allowed = AllowedModels((training.model.name,))
    if planned is not None:
        training = job_as_planned(training, planned, "plan")
    orchestrator = OrchestratorMachine(training, f"run-{secrets.token_hex(3)}", secrets.token_hex(4), topics, planned)
    drivers = {"orch": driver(orchestrator, OrchestratorPerformer(out, orchestrator.run_state.run), "orch", "orch")}
    for number in range(1, nodes + 1):
        id = f"node-{number}"
        hop = HopMachine(id, secrets.token_hex(4), topics, {"memory_budget": memory_budget, **info}, once=True)
        drivers[id] = driver(hop, HopPerformer(id, profiler=profiler, budget=memory_budget, models=allowed), "node", id)
    for id, shard in shards.items():
        device = DeviceMachine(id, secrets.token_hex(4), topics, {"samples": shard.samples, **info}, once=True)
        drivers[id] = driver(device, DevicePerformer(id, shard, profiler, allowed), "device", id)

    async def run_last() -> Stop:
        if orchestrator_last:
            await _all_heard(address("watch"), topics, drivers.keys() - {"orch"})
        return await drivers["orch"].run()

    try:
        async with asyncio.timeout(timeout):
            others = (each.run() for id, each in drivers.items() if id != "orch")
            stops = await asyncio.gather(run_last(), *others)
    finally:
        executor.shutdown(wait=True)
    return Outcome(orchestrator.summary, dict(zip(drivers, stops, strict=True)), out, log)


async def _all_heard(address: BrokerAddress, topics: Topics, ids: Set[str]) -> None:
    """Wait for a sign of life of each of these devices and nodes."""
    missing = set(ids)
    async with connect(address, f"mpsl-test-{secrets.token_hex(4)}") as connection:
        await connection.subscribe(tuple(topics.participant(branch, "+", "tele") for branch in BRANCHES))
        async for arrived in connection.messages():
            match topics.parse(arrived.topic):
                case ParticipantTopic(id=id):
                    missing.discard(id)
            if not missing:
                return
