"""Simulated runs without cuts: processes that answer what they are told when they are asked how fast they are."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios import Scenario
from simulated import TOPICS, Outcome, World, check, simulate

from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.machines.device import DeviceMachine
from mpsl.machines.hop import HopMachine
from mpsl.machines.jobs import MeasureBlocks, WorkerJob
from mpsl.nn.profiler import Profiler
from mpsl.profile_questions import BlockSeconds, Question
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.times import Times


@dataclass(frozen=True)
class WithoutCuts(Scenario):
    """Five hidden blocks and the last one, for the planner to cut."""

    hops: int = 2
    hidden: tuple[int, ...] = (4, 4, 4, 4, 4)

    def job(self) -> Any:
        job = super().job()
        del job["model"]["cuts"]
        return job


class Told(Profiler):
    """Answers with what it is told, block by block of those that it is asked for."""

    def __init__(self, ms: Callable[[int], float], asked: list[Question]) -> None:
        self.ms = ms
        self.asked = asked

    def answer(self, question: Question) -> BlockSeconds:
        self.asked.append(question)
        ms = tuple(self.ms(number) for first, end in question.blocks for number in range(first, end))
        return BlockSeconds(ms, tuple(2 * each for each in ms), (0.0,) * len(ms), 1.0)


class Surveyed(World):
    """Every process on a machine of its own, unless `hosts` says where; `ms` of a block by process and number."""

    def __init__(
        self,
        scenario: Scenario,
        ms: Callable[[str, int], float] = lambda id, number: 1.0,
        hosts: Callable[[str], str] = lambda id: id,
        cores: int = 1,
        measuring_s: float = 1.0,
        times: Callable[[EventQueue], Times] = Times,
    ) -> None:
        self.ms, self.hosts, self.cores, self.measuring_s = ms, hosts, cores, measuring_s
        self.asked: dict[str, list[Question]] = {}
        self.most_at_once = 0
        super().__init__(scenario, self._takes, times=times)

    def _takes(self, process: str, job: WorkerJob) -> float:
        if isinstance(job, MeasureBlocks):
            now = sum(isinstance(each.job, MeasureBlocks) for each in self.simulation.processes.values())
            self.most_at_once = max(self.most_at_once, now)
            return self.measuring_s
        return 0.01

    def info(self, id: str) -> dict[str, Any]:
        """What a process says of its machine; `hosts` "" says nothing."""
        host = self.hosts(id)
        return {"host": host, "hardware": f"kind of {host}", "cores": self.cores, "threads": 1} if host else {}

    def profiler(self, id: str) -> Profiler:
        """Kept over a process's crashes, as files are."""
        return Told(lambda number: self.ms(id, number), self.asked.setdefault(id, []))

    def device(self, id: str, boot: str) -> Any:
        info = {**self.info(id), "samples": self._shards[id].samples}
        machine = DeviceMachine(id, boot, TOPICS, info, self._once)
        return machine, DevicePerformer(id, self._shards[id], self.profiler(id))

    def _hop(self, id: str, boot: str) -> Any:
        machine = HopMachine(id, boot, TOPICS, {"memory_budget": None, **self.info(id)}, self._once)
        return machine, HopPerformer(id, profiler=self.profiler(id))


def ran(world: Surveyed, out: Path) -> tuple[Outcome, dict[str, Any]]:
    """The run, which has the reference's result, and its plan.json."""
    outcome = simulate(world.scenario, out, world=world)
    check(outcome)
    assert outcome.summary["state"] == "done", outcome.trace()
    return outcome, json.loads((out / "plan.json").read_text())
