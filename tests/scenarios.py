"""Scenarios for the simulator: runs of every size, written by hand or random, and the faults injected into them."""

import math
import random
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from device_agent.shard_source import Shard
from mpsl.batches import smallest_micro_batch
from mpsl.names import BROKER
from mpsl.planning.plan_file import PlannedRun, PlannedSeat
from mpsl.sim.faults import BROKER_FAULTS, NO_FAULTS, FaultKind, Faults, InjectedFault

CLASSES = 3


FEATURES = 5


@dataclass(frozen=True)
class Scenario:
    """A run: its job, its shards (training and test samples of each device), and what goes wrong."""

    seed: int
    hops: int = 1
    samples: tuple[int, ...] = (9, 7)
    tests: tuple[int, ...] = (4, 3)
    hidden: tuple[int, ...] = (4, 4, 4)
    dropout: float = 0.0
    batch_norm: bool = False
    residual: bool = False
    optimizer: str = "sgd"
    momentum: float = 0.0
    rounds: int = 2
    batch_size: int = 4
    local_epochs: int = 1
    micro_batches: int = 1
    evaluate_every: int = 1
    shuffle: bool = True
    admit: int | None = None
    quorum: int | None = None
    round_timeout_s: float | None = None
    start_timeout_s: float = 300.0
    max_packet: int | None = None
    chunk_bytes: int = 4096
    first_cut: int | None = None
    """Blocks before the first hop; None: by the seed."""
    slowest_job_s: float = 0.05
    faults: Faults = NO_FAULTS
    replicas: int = 1
    planned: PlannedRun | None = None
    standbys: int = 0
    """Nodes beyond the seats."""
    is_cut: bool = True
    """Whether the job says where to cut."""
    patience_s: float = 60.0
    join: str = "open"
    expected_failure_s: float = 3600.0
    """Small: savepoints in every round."""
    deterministic: bool = False
    once: bool = True
    """Whether devices and nodes leave after the run; otherwise they wait for the next one."""

    @property
    def devices(self) -> list[str]:
        """dev-1 and on."""
        return [f"dev-{number}" for number in range(1, len(self.samples) + 1)]

    @property
    def nodes(self) -> list[str]:
        """The nodes of the plan, or node-1 and on."""
        if self.planned is not None:
            return [seat.node for seat in self.planned.seats]
        return [f"node-{number}" for number in range(1, self.hops * self.replicas + 1)]

    @property
    def spare_nodes(self) -> list[str]:
        """Nodes that have no seat at first."""
        return [f"node-{number}" for number in range(len(self.nodes) + 1, len(self.nodes) + self.standbys + 1)]

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments of the mlp."""
        return {
            "in_features": FEATURES,
            "num_classes": CLASSES,
            "hidden": list(self.hidden),
            "dropout": self.dropout,
            "batch_norm": self.batch_norm,
            "residual": self.residual,
        }

    @property
    def cuts(self) -> list[int]:
        """Hops of one block each, anywhere."""
        blocks = len(self.hidden) + 1
        first = self.first_cut or random.Random(self.seed).randint(1, blocks - self.hops - 1) if self.hops else 0
        return [first + hop for hop in range(self.hops + 1)] if self.hops else []

    def job(self) -> Any:
        """The content of JOB.toml."""
        fleet = {
            "devices": len(self.samples),
            "nodes": len(self.nodes),
            "replicas": self.replicas,
            "start_timeout_s": self.start_timeout_s,
            "patience_s": self.patience_s,
            "join": self.join,
            "expected_failure_s": self.expected_failure_s,
        }
        chosen = {"quorum": self.quorum, "admit": self.admit, "round_timeout_s": self.round_timeout_s}
        return {
            "run": {
                "name": "sim",
                "rounds": self.rounds,
                "batch_size": self.batch_size,
                "local_epochs": self.local_epochs,
                "micro_batches": self.micro_batches,
                "seed": self.seed,
                "shuffle": self.shuffle,
                "evaluate_every": self.evaluate_every,
                "deterministic": self.deterministic,
            },
            "model": {"name": "mlp", "args": self.model_args} | ({"cuts": self.cuts} if self.is_cut else {}),
            "optimizer": {"name": self.optimizer, "lr": 0.05, "momentum": self.momentum},
            "wire": {"chunk_bytes": self.chunk_bytes},
            "fleet": fleet | {key: value for key, value in chosen.items() if value is not None},
        }

    def shards(self) -> dict[str, Shard]:
        """Random samples."""
        chance = np.random.default_rng(self.seed)

        def one(id: str, size: int, test: int) -> Shard:
            x = chance.standard_normal((size + test, FEATURES), dtype=np.float32)
            y = chance.integers(0, CLASSES, size + test)
            return Shard(id, x[:size], y[:size], x[size:], y[size:])

        return {id: one(id, *sizes) for id, *sizes in zip(self.devices, self.samples, self.tests, strict=True)}


def random_scenario(seed: int) -> Scenario:
    """Any valid job, on a network that loses, doubles, delays and reorders messages."""
    chance = random.Random(f"scenario {seed}")
    devices = chance.randint(1, 4)
    hops = chance.randint(0, 3)
    width = chance.choice([4, 4, 4, 40])
    hidden = (width,) * chance.randint(max(1, hops + 1), 4)
    samples = tuple(chance.randint(1, 9) for _ in range(devices))
    batch_size = chance.randint(2, 6)
    micro_batches = chance.choice([1, 1, 2, 3])
    lone = min(smallest_micro_batch(size, batch_size, micro_batches) for size in samples) == 1
    optimizer = chance.choice(["sgd", "adam"])
    scenario = Scenario(
        seed=seed,
        hops=hops,
        samples=samples,
        tests=tuple(chance.choice([0, 3, 9]) for _ in range(devices)),
        hidden=hidden,
        dropout=chance.choice([0.0, 0.0, 0.3]),
        batch_norm=not lone and chance.random() < 0.5,
        residual=chance.random() < 0.3,
        optimizer=optimizer,
        momentum=0.9 if optimizer == "sgd" and chance.random() < 0.5 else 0.0,
        rounds=chance.choice([1, 2, 2, 3]),
        batch_size=batch_size,
        local_epochs=chance.choice([1, 1, 2]),
        micro_batches=micro_batches,
        evaluate_every=chance.randint(1, 2),
        shuffle=chance.random() < 0.8,
        admit=chance.choice([None, 1, 2, 3]),
        max_packet=chance.choice([None, 1500, 3000]),
        slowest_job_s=chance.choice([0.001, 0.05, 0.5]),
        faults=Faults(
            lost=chance.choice([0.0, 0.02, 0.1]),
            doubled=chance.choice([0.0, 0.1]),
            late=chance.choice([0.0, 0.3]),
            longest_delay_s=chance.choice([0.05, 1.0, 6.0]),
        ),
    )
    if not hops:
        return scenario
    if chance.random() < 0.4:
        return replace(scenario, admit=None, planned=random_plan(scenario, chance))
    return replace(scenario, replicas=chance.choice([1, 1, min(2, devices), min(3, devices)]))


def random_plan(scenario: Scenario, chance: random.Random) -> PlannedRun:
    """Random replicas of each stage, which serve any devices or none, on nodes in any order."""
    replicas = [chance.choice([1, 1, 2, 3]) for _ in range(scenario.hops)]
    nodes = [f"node-{number}" for number in range(1, sum(replicas) + 1)]
    chance.shuffle(nodes)
    seats = tuple(
        PlannedSeat(stage, replica, nodes.pop(), blocks)
        for stage, (count, blocks) in enumerate(zip(replicas, pairwise(scenario.cuts), strict=True), start=1)
        for replica in range(count)
    )
    devices = {id: tuple(chance.randrange(count) for count in replicas) for id in scenario.devices}
    return PlannedRun(tuple(scenario.cuts), seats, devices, chance.randint(1, len(devices)))


def random_faults(seed: int) -> Scenario:
    """A random scenario in which not everyone is needed, with some faults injected into anyone."""
    chance = random.Random(f"mishaps {seed}")
    scenario = random_scenario(seed)
    if scenario.planned is None and chance.random() < 0.4:
        # More devices than places: a long round, in which savepoints are worth their cost.
        more = tuple(chance.randint(2, 6) for _ in range(chance.randint(1, 3)))
        samples, tests = scenario.samples + more, scenario.tests + (0,) * len(more)
        scenario = replace(scenario, samples=samples, tests=tests, admit=chance.choice([1, 2]), batch_norm=False)
    is_cut = scenario.hops == 0 or scenario.planned is not None or chance.random() < 0.5
    scenario = replace(
        scenario,
        quorum=chance.randint(1, len(scenario.samples)),
        round_timeout_s=chance.choice([None, None, 20.0]),
        standbys=chance.choice([0, 0, 1]),
        is_cut=is_cut,
        expected_failure_s=chance.choice([3600.0, 0.01, 0.01, 1.0]),
        deterministic=chance.random() < 0.15,
        once=chance.random() < 0.5,
    )
    injected = tuple(random_fault(scenario, chance) for _ in range(chance.choice([1, 1, 2, 3])))
    skew = chance.choice([0.0, 0.0, 0.01, 0.2])
    return replace(scenario, faults=replace(scenario.faults, injected=injected, skew=skew))


def random_fault(scenario: Scenario, chance: random.Random) -> InjectedFault:
    """Any fault of any process."""
    members = [*scenario.devices, *scenario.nodes, *scenario.nodes, *scenario.spare_nodes]
    process = chance.choice([*members, "orch", "orch", BROKER])
    seconds = chance.choice([0.2, 2.0, 10.0, 35.0, 50.0, 200.0])
    kind: FaultKind
    if process == BROKER:
        return InjectedFault(chance.choice(BROKER_FAULTS), BROKER, int(10 ** chance.uniform(0.5, 3.2)), seconds)
    if process == "orch" and chance.random() < 0.25:
        kind, seconds = "disk", chance.choice([1.0, 5.0, 20.0, math.inf])
    elif chance.random() < 0.4:
        kind, seconds = "crash", chance.choice([0.2, 2.0, 10.0, 50.0, math.inf])
    else:
        kind = chance.choice(["cut", "partition", "mute", "deaf", "freeze", "suspend", "jump", "error"])
    return InjectedFault(kind, process, int(10 ** chance.uniform(0.5, 2.7)), seconds)
