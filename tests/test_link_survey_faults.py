"""Whatever befalls anyone while links are measured: nothing hangs, nothing is left, the result is exact."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from self_profiles import Surveyed, WithoutCuts, ran
from simulated import TOPICS, run_and_check, simulate
from surveys import assert_nothing_is_left, link_times, said, seeds

from compute_node.performer import HopPerformer
from mpsl.machines.events import Received, StopRequested
from mpsl.machines.hop import HopMachine
from mpsl.machines.link_check import COMMAND, QUIET_S
from mpsl.machines.machine import from_json
from mpsl.machines.orchestrator.link_survey import ANSWER_S
from mpsl.machines.participant import Participant
from mpsl.sim.faults import Faults, InjectedFault
from mpsl.sim.process import Process


class Older(HopMachine):
    """Knows how to measure itself, and nothing of links."""

    def _commanded(self, event: Received) -> None:
        if (from_json(event.payload) or {}).get("do") != COMMAND:
            super()._commanded(event)


def test_who_does_not_answer_counts_as_fast_and_is_named(tmp_path: Path) -> None:
    class WithOlder(Surveyed):
        def _hop(self, id: str, boot: str) -> Any:
            if id != "node-1":
                return super()._hop(id, boot)
            info = {"memory_budget": None, **self.info(id)}
            return Older(id, boot, TOPICS, info, self._once), HopPerformer(id, profiler=self.profiler(id))

    world = WithOlder(WithoutCuts(6), times=link_times({}))
    outcome, plan = ran(world, tmp_path)
    assert plan["links"].keys() == {"dev-1", "dev-2", "node-2"}
    assert "predicted" in plan
    (line,) = said(outcome, "links-not-measured")
    assert line["ids"] == ["node-1"]
    (line,) = said(outcome, "links-measured")
    assert ANSWER_S <= line["seconds"] < ANSWER_S + 5
    assert_nothing_is_left(outcome)


class Struck(Surveyed):
    """A fault befalls one that is being measured, once it has handled `after` events of that."""

    def __init__(self, fault: InjectedFault, *arguments: Any, **options: Any) -> None:
        self.fault: InjectedFault | None = fault
        self.handled = 0
        self.asked_terms: dict[str, set[tuple[str, int]]] = {}
        super().__init__(*arguments, times=link_times({}), **options)

    def _watch(self, process: Process) -> None:
        super()._watch(process)
        if isinstance(process.machine, Participant) and (question := process.machine._link_check._question):
            self.asked_terms.setdefault(process.id, set()).add((process.machine.boot, question.term))
            if self.fault is not None and self._concerns(process, self.fault):
                self.handled += 1
                if self.handled > self.fault.after:
                    fault, self.fault = self.fault, None
                    self.befall(fault)

    @staticmethod
    def _concerns(process: Process, fault: InjectedFault) -> bool:
        return fault.process in (process.id, "orch")

    def befall(self, fault: InjectedFault) -> None:
        self.simulation.inject(fault)


@pytest.mark.parametrize("after", [0, 3, 9, 40, 90])
@pytest.mark.parametrize("id", ["node-2", "dev-1"])
def test_one_that_crashes_while_it_is_measured_is_measured_again_when_it_is_back(
    tmp_path: Path, id: str, after: int
) -> None:
    world = Struck(InjectedFault("crash", id, after, 3.0), WithoutCuts(1))
    outcome, plan = ran(world, tmp_path)
    assert world.fault is None
    assert [line["gone"] for line in said(outcome, "left-while-profiling")] == [[id]]
    assert plan["links"].keys() == {"dev-1", "dev-2", "node-1", "node-2"}
    assert {boot for boot, _ in world.asked_terms[id]} >= {outcome.simulation.processes[id].machine.boot}
    assert len(world.asked_terms["node-1"]) == 1, "the first one of all was measured before, and is not asked again"
    assert_nothing_is_left(outcome)


@pytest.mark.parametrize("kind", ["cut", "freeze"])
@pytest.mark.parametrize("seconds", [0.5, 5.0, 12.0])
def test_one_that_is_cut_off_while_it_is_measured_stops_nothing(tmp_path: Path, kind: Any, seconds: float) -> None:
    outcome, plan = ran(Struck(InjectedFault(kind, "node-2", 20, seconds), WithoutCuts(8)), tmp_path)
    assert {"predicted", "links"} <= plan.keys()
    assert_nothing_is_left(outcome)


@pytest.mark.parametrize("after", [0, 3, 9, 40])
def test_an_orchestrator_that_dies_while_it_measures_leaves_nothing_behind(tmp_path: Path, after: int) -> None:
    world = Struck(InjectedFault("crash", "orch", after, float("inf")), WithoutCuts(9))
    outcome = simulate(world.scenario, tmp_path, world=world)
    assert world.fault is None
    simulation = world.simulation
    simulation.run(outcome.ending.seconds + QUIET_S + 1)
    assert_nothing_is_left(outcome)
    world.add_orchestrator(tmp_path / "next", simulation.queue.now, "orch")
    ending = world.run()
    assert ending.stops["orch"].status == 0, outcome.trace()
    assert json.loads((tmp_path / "next" / "plan.json").read_text())["links"].keys() == set(world.asked_terms)


def test_an_orchestrator_that_is_stopped_while_it_measures_says_so(tmp_path: Path) -> None:
    class Interrupted(Struck):
        def befall(self, fault: InjectedFault) -> None:
            orchestrator = self.simulation.processes["orch"]
            self.simulation.queue.at(self.simulation.queue.now, orchestrator.handle, StopRequested())

    world = Interrupted(InjectedFault("crash", "orch", 20, 0.0), WithoutCuts(9))
    outcome = simulate(world.scenario, tmp_path, world=world)
    assert (world.fault, outcome.summary["reason"]) == (None, "interrupted")
    world.simulation.run(outcome.ending.seconds + 0.1)
    assert_nothing_is_left(outcome)


def anything(seed: int) -> Struck:
    """Any fault to anyone while links are measured, on a network that loses, doubles, delays and reorders."""
    chance = random.Random(f"links {seed}")
    faults = Faults(
        lost=chance.choice([0.0, 0.02, 0.2]),
        doubled=chance.choice([0.0, 0.1]),
        late=chance.choice([0.0, 0.3]),
        longest_delay_s=chance.choice([0.05, 1.0, 6.0]),
    )
    kind: Any = chance.choice(["crash", "cut", "freeze", "outage"])
    process = chance.choice(["node-1", "node-2", "dev-1", "dev-2", "orch"])
    seconds = float("inf") if (kind, process) == ("crash", "orch") else chance.choice([0.2, 2.0, 8.0, 40.0])
    fault = InjectedFault(kind, process, int(10 ** chance.uniform(0, 2)), seconds)
    hosts = chance.choice([lambda id: id, lambda id: "here"])
    return Struck(fault, WithoutCuts(seed, faults=faults, quorum=1, rounds=1), hosts=hosts, cores=2)


@pytest.mark.parametrize("seed", seeds())
def test_whatever_befalls_anyone_nothing_hangs_and_the_result_is_exact(tmp_path: Path, seed: int) -> None:
    world = anything(seed)
    outcome = run_and_check(world.scenario, tmp_path, world=world)
    world.simulation.run(outcome.ending.seconds + 60)
    assert_nothing_is_left(outcome)
