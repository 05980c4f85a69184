"""A run without cuts: everyone measures, the plan follows what they say, and nothing of it can stop the run."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from scenarios import Scenario
from simulated import TOPICS, Outcome, World, check, simulate

from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.errors import RunFailed, UsageError
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Run
from mpsl.machines.events import Received
from mpsl.machines.hop import HopMachine
from mpsl.machines.jobs import Job, MeasureBlocks
from mpsl.nn.profiler import Profiler
from mpsl.profiling import BlockSeconds, Question
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.faults import Faults, InjectedFault
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

    def _takes(self, process: str, job: Job) -> float:
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


def test_the_plan_follows_what_was_measured(tmp_path: Path) -> None:
    """Block 1 takes twice as long as the three after it together, and node-2 is twice as fast as node-1."""

    def ms(id: str, number: int) -> float:
        return (60.0 if number == 1 else 10.0) / (2 if id == "node-2" else 1)

    world = Surveyed(WithoutCuts(1, samples=(8,) * 6, tests=(3,) * 6), ms)
    outcome, plan = ran(world, tmp_path)
    assert (plan["cuts"], [seat["node"] for seat in plan["seats"]]) == ([1, 2, 5], ["node-2", "node-1"])
    predicted = plan["predicted"]["round_s"]
    assert predicted > 6 * 2 * 0.09  # the busiest node's own seconds
    rounds = outcome.summary["rounds"]
    assert [entry["predicted_s"] for entry in rounds] == [predicted] * 2
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])["predicted_s"] == predicted
    blocks = {id: [question.blocks for question in asked] for id, asked in world.asked.items()}
    assert blocks["node-1"] == blocks["node-2"] == [((1, 5),)]
    assert blocks["dev-1"] == blocks["dev-6"] == [((0, 1), (5, 6))]


def test_on_one_machine_as_many_measure_at_once_as_it_has_cores_and_the_others_share(tmp_path: Path) -> None:
    scenario = WithoutCuts(2, samples=(5, 4, 6, 5, 4), tests=(0,) * 5)
    world = Surveyed(scenario, hosts=lambda id: "here", cores=2)
    _, plan = ran(world, tmp_path)
    assert sorted(id for id, asked in world.asked.items() if asked) == ["dev-1", "dev-2", "node-1", "node-2"]
    assert world.most_at_once == 2
    assert "predicted" in plan


def test_a_job_with_cuts_and_a_fleet_that_cannot_be_asked_are_not_measured(tmp_path: Path) -> None:
    world = Surveyed(Scenario(3))
    outcome, plan = ran(world, tmp_path / "cuts")
    assert "predicted" not in plan
    assert "predicted_s" not in outcome.summary["rounds"][0]
    silent = Surveyed(WithoutCuts(3), hosts=lambda id: "" if id == "dev-2" else id)
    _, plan = ran(silent, tmp_path / "silent")
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert not any([*world.asked.values(), *silent.asked.values()])


def test_a_lossy_network_only_delays_it(tmp_path: Path) -> None:
    faults = Faults(lost=0.1, doubled=0.1, late=0.3, longest_delay_s=3.0)
    for seed in range(5):
        world = Surveyed(WithoutCuts(seed, faults=faults), measuring_s=2.5)
        _, plan = ran(world, tmp_path / str(seed))
        assert "predicted" in plan
        assert all(len(asked) == 1 for asked in world.asked.values()), "asked again, measured once"


@pytest.mark.parametrize("id", ["node-1", "dev-2"])
def test_one_that_crashes_while_it_measures_is_asked_again(tmp_path: Path, id: str) -> None:
    faults = Faults(injected=(InjectedFault("crash", id, 8, 3.0),))
    world = Surveyed(WithoutCuts(4, faults=faults), measuring_s=20.0)
    outcome = simulate(world.scenario, tmp_path, world=world)
    assert outcome.summary["state"] == "done", outcome.trace()
    assert any("left-while-profiling" in line for line in outcome.simulation.trace.text().splitlines())
    assert "predicted" in json.loads((tmp_path / "plan.json").read_text())


def test_who_does_not_answer_in_time_does_not_stop_the_run(tmp_path: Path) -> None:
    world = Surveyed(WithoutCuts(5, start_timeout_s=300.0), measuring_s=130.0)
    outcome, plan = ran(world, tmp_path)
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert "within 120 s; cut by estimated compute" in outcome.simulation.trace.text()


def test_one_that_cannot_measure_does_not_stop_the_run(tmp_path: Path) -> None:
    def ms(id: str, number: int) -> float:
        if id == "dev-1":
            raise RunFailed("no memory for block 0")
        return 1.0

    outcome, plan = ran(Surveyed(WithoutCuts(6), ms), tmp_path)
    assert "predicted" not in plan
    assert "dev-1: no memory for block 0; cut by estimated compute" in outcome.simulation.trace.text()


def test_times_that_are_no_times_do_not_stop_the_run(tmp_path: Path) -> None:
    outcome, plan = ran(Surveyed(WithoutCuts(7), ms=lambda id, number: float("inf")), tmp_path)
    assert "predicted" not in plan
    assert "a time is no time" in outcome.simulation.trace.text()


def test_where_nothing_can_be_planned_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_plan(system: Any, shape: Any) -> Any:
        raise UsageError("no placement fits")

    monkeypatch.setattr("orchestrator.performer.find_plan", find_plan)
    outcome, plan = ran(Surveyed(WithoutCuts(8)), tmp_path)
    assert ("predicted" in plan, plan["cuts"]) == (False, [1, 3, 5])
    assert "no placement fits; cut by estimated compute" in outcome.simulation.trace.text()


def test_commands_to_others_and_what_is_no_command_are_dropped() -> None:
    machine = HopMachine("node-1", "0a", TOPICS, {"memory_budget": None})
    question = {"model": {"name": "mlp"}, "batch_size": 2, "optimizer": "sgd", "blocks": [[1, 2]]}
    topic = TOPICS.participant("node", "node-1", "cmd")
    wrong: list[Any] = [
        b"{", b"", {"do": "profile", "boot": "0b", "question": question}, {"do": "dance", "boot": "0a"},
        {"do": "profile", "boot": "0a", "question": question | {"batch_size": "2"}},
        {"do": "profile", "boot": "0a", "question": question | {"optimizer": "adma"}},
        {"do": "profile", "boot": "0a", "question": question | {"blocks": [[2, 1]]}},
        {"do": "profile", "boot": "0a"},
    ]  # fmt: skip
    for number, content in enumerate(wrong, start=1):
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        effects = machine.handle(Received(topic, payload), 1.0)
        assert not any(isinstance(effect, Run) for effect in effects), content
        assert machine.dropped["command is malformed"] == number
    right = json.dumps({"do": "profile", "boot": "0a", "question": question}).encode()
    effects = machine.handle(Received(topic, right), 1.0)
    assert [type(effect.job) for effect in effects if isinstance(effect, Run)] == [MeasureBlocks]
    assert machine.handle(Received(topic, right), 2.0) == [], "it is measuring already"
