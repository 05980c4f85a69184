"""Those who go, hang, or come back: the run goes on without a device where it may, else it fails and says who."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scenarios import Scenario
from simulated import World, check_result, run_and_check

from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.machines.device import DeviceMachine
from mpsl.machines.device_session import DeviceSession
from mpsl.machines.jobs import Backward, Encoded, Forward, ForwardProbe, HeadForward, WorkerJob
from mpsl.machines.participant_session import SILENCE_S
from mpsl.machines.session import LOST_GRACE_S
from mpsl.machines.tables.device import DeviceOutcome
from mpsl.messages import Accept, Close, Discard, Discarded, Message
from mpsl.plan import Plan
from mpsl.sim.faults import Faults, InjectedFault
from mpsl.sim.network import NOTICE_S

pytestmark = pytest.mark.slow
THREE = Scenario(seed=0, hops=2, samples=(9, 6, 11), tests=(4, 0, 3), hidden=(4, 4, 4, 4), rounds=3, quorum=1)
PATIENCE_S = THREE.patience_s
STEPS = [5, 12, 20, 33, 50, 70, 95]
"""Events that a process has handled when something befalls it: from its start to the middle of the run."""


def befall(scenario: Scenario, *injected: InjectedFault, **faults: Any) -> Scenario:
    return replace(scenario, faults=Faults(injected=injected, **faults))


def rounds_of(summary: dict[str, Any], id: str) -> list[int]:
    return [entry["round"] for entry in summary["rounds"] if id in entry["devices"]]


@pytest.mark.parametrize("hops", [0, 1, 2])
@pytest.mark.parametrize("after", STEPS)
def test_a_run_goes_on_without_a_crashed_device(tmp_path: Path, after: int, hops: int) -> None:
    scenario = befall(replace(THREE, seed=after, hops=hops), InjectedFault("crash", "dev-2", after, math.inf))
    outcome = run_and_check(scenario, tmp_path)
    if after > 12:  # before that it may not have been found yet, so that the fleet is never complete
        assert outcome.summary["state"] == "done", outcome.trace()
        assert rounds_of(outcome.summary, "dev-1") == [1, 2, 3]
        assert rounds_of(outcome.summary, "dev-2") != [1, 2, 3] or after > 33


@pytest.mark.parametrize("after", STEPS[2:5])
def test_below_the_quorum_a_run_fails_and_names_the_lost_device(tmp_path: Path, after: int) -> None:
    scenario = befall(replace(THREE, quorum=3, seed=after), InjectedFault("crash", "dev-2", after, math.inf))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "failed"
    assert "dev-2" in outcome.summary["reason"]
    assert "quorum is 3" in outcome.summary["reason"]


@pytest.mark.parametrize("kind", ["crash", "freeze"])
@pytest.mark.parametrize("after", [45, 60, 120])
def test_everyone_waits_for_a_vanished_orchestrator_and_then_leaves(tmp_path: Path, after: int, kind: Any) -> None:
    scenario = befall(
        replace(THREE, seed=after), InjectedFault(kind, "orch", after, 1000.0 if kind == "freeze" else math.inf)
    )
    world = World(scenario)
    world.add_orchestrator(tmp_path, 0.0)
    world.add_devices_and_nodes()
    world.simulation.run(PATIENCE_S)
    others = [process for process in world.simulation.processes.values() if process.id != "orch"]
    assert not [process.id for process in others if process.over]
    assert all(session.is_orphaned for process in others for session in process.machine.sessions.values())
    world.simulation.run(PATIENCE_S + 20.0 + SILENCE_S + NOTICE_S + LOST_GRACE_S)
    others = [process for process in world.simulation.processes.values() if process.id != "orch"]
    assert [process.ended_with.status if process.ended_with else None for process in others] == [1] * 5, (
        world.simulation.trace.text()
    )


@pytest.mark.parametrize("away", [0.5, 4.0])
@pytest.mark.parametrize("kind", ["crash", "cut"])
@pytest.mark.parametrize("after", STEPS[2:5])
def test_a_device_that_comes_back_takes_part_again(tmp_path: Path, after: int, kind: Any, away: float) -> None:
    """A crashed one with another boot, one whose connection was cut with the same."""
    slow = replace(THREE, seed=after, rounds=8, slowest_job_s=0.5)
    outcome = run_and_check(befall(slow, InjectedFault(kind, "dev-2", after, away)), tmp_path)
    assert outcome.summary["state"] == "done"
    assert rounds_of(outcome.summary, "dev-2")[-1] == 8, outcome.trace()


def test_a_frozen_device_is_left_out(tmp_path: Path) -> None:
    outcome = run_and_check(befall(THREE, InjectedFault("freeze", "dev-2", 40, 2000.0)), tmp_path)
    assert outcome.summary["state"] == "done"
    assert 3 not in rounds_of(outcome.summary, "dev-2")


def test_a_device_whose_job_never_ends_is_left_out_though_it_is_online(tmp_path: Path) -> None:
    def duration(process: str, job: WorkerJob) -> float:
        return math.inf if process == "dev-2" and isinstance(job, HeadForward) and job.ticket.round == 2 else 0.01

    outcome = run_and_check(THREE, tmp_path, duration)
    assert outcome.summary["state"] == "done"
    assert rounds_of(outcome.summary, "dev-2") == [1]


@pytest.mark.parametrize("kind", [Forward, Backward, ForwardProbe])
def test_a_device_for_which_a_job_of_a_node_fails_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[WorkerJob]
) -> None:
    performed = HopPerformer.perform

    def perform(self: HopPerformer, job: Any, session: Any = None) -> Any:
        at = getattr(job, "ticket", job)
        if isinstance(job, kind) and (at.device, at.round) == ("dev-3", 2):
            raise RuntimeError("shapes cannot be multiplied")
        return performed(self, job, session)

    monkeypatch.setattr(HopPerformer, "perform", perform)
    outcome = run_and_check(THREE, tmp_path)
    assert outcome.summary["state"] == "done"
    # Evaluation follows the commit: its own round counts.
    assert rounds_of(outcome.summary, "dev-3") == ([1, 2] if kind is ForwardProbe else [1])
    assert rounds_of(outcome.summary, "dev-1") == [1, 2, 3]


def test_a_device_that_sends_what_no_codec_decodes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    performed = DevicePerformer.perform

    def perform(self: DevicePerformer, job: Any, session: Any = None) -> Any:
        result = performed(self, job, session)
        if isinstance(job, HeadForward) and (job.ticket.device, job.ticket.round) == ("dev-2", 2):
            assert isinstance(result, Encoded)
            return replace(result, tensor=msgspec.structs.replace(result.tensor, shape=(1,)))
        return result

    monkeypatch.setattr(DevicePerformer, "perform", perform)
    outcome = run_and_check(THREE, tmp_path)
    assert outcome.summary["state"] == "done"
    assert rounds_of(outcome.summary, "dev-2") == [1]
    assert rounds_of(outcome.summary, "dev-3") == [1, 2, 3]


def test_a_node_that_can_compute_for_nobody_ends_the_run_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    performed = HopPerformer.perform

    def perform(self: HopPerformer, job: Any, session: Any = None) -> Any:
        if isinstance(job, Forward):
            raise RuntimeError("not enough memory")
        return performed(self, job, session)

    monkeypatch.setattr(HopPerformer, "perform", perform)
    outcome = run_and_check(THREE, tmp_path)
    assert outcome.summary["state"] == "failed"
    assert "node-1: RuntimeError: not enough memory" in outcome.summary["reason"]


def test_a_slow_device_is_not_left_out_without_a_round_timeout(tmp_path: Path) -> None:
    """Slow is not stuck: it makes progress, be it seldom."""

    def duration(process: str, job: WorkerJob) -> float:
        return 100.0 if process == "dev-2" else 0.01

    outcome = run_and_check(replace(THREE, rounds=1, admit=1), tmp_path, duration)
    assert rounds_of(outcome.summary, "dev-2") == [1]


def test_the_round_timeout_leaves_out_who_is_not_done(tmp_path: Path) -> None:
    def duration(process: str, job: WorkerJob) -> float:
        return 20.0 if process == "dev-2" else 0.01

    outcome = run_and_check(replace(THREE, round_timeout_s=30.0, admit=3), tmp_path, duration)
    assert outcome.summary["state"] == "done"
    assert rounds_of(outcome.summary, "dev-2") == []
    assert rounds_of(outcome.summary, "dev-1") == [1, 2, 3]


def test_a_node_whose_job_never_ends_fails_the_run_and_is_named(tmp_path: Path) -> None:
    """Its telemetry goes on, so it is what it does not forget that gives it away."""

    def duration(process: str, job: WorkerJob) -> float:
        return math.inf if process == "node-1" and isinstance(job, Backward) else 0.01

    outcome = run_and_check(THREE, tmp_path, duration)
    assert outcome.summary["state"] == "failed"
    assert "node-1 (seat 1_0)" in outcome.summary["reason"]


@pytest.mark.parametrize("hops", [0, 1])
def test_a_short_cut_of_the_orchestrator_is_survived(tmp_path: Path, hops: int) -> None:
    scenario = befall(replace(THREE, hops=hops, rounds=30), InjectedFault("cut", "orch", 100, 1.0))
    outcome = run_and_check(scenario, tmp_path)
    assert outcome.summary["state"] == "done", "its last will is taken back within the grace time"
    check_result(outcome)


@pytest.mark.parametrize("seconds", [1.0, 100.0])
@pytest.mark.parametrize("after", [3, 30, 90])
def test_a_broker_that_goes_ends_the_run_with_a_reason_or_lets_it_go_on(
    tmp_path: Path, after: int, seconds: float
) -> None:
    outcome = run_and_check(
        befall(replace(THREE, rounds=10), InjectedFault("outage", "orch", after, seconds)), tmp_path
    )
    if seconds > 10:
        assert outcome.summary["state"] == "failed"
        assert "broker" in outcome.summary["reason"]


@pytest.mark.parametrize("seed", range(6))
def test_devices_and_nodes_stay_for_the_next_runs_even_after_an_orchestrator_has_crashed(
    tmp_path: Path, seed: int
) -> None:
    scenario = befall(replace(THREE, seed=seed), InjectedFault("crash", "orch-2", 60, math.inf), lost=0.05, late=0.2)
    world = World(scenario, once=False)
    world.add_devices_and_nodes()
    for number, at in ((1, 0.0), (2, 200.0), (3, 400.0)):
        world.add_orchestrator(tmp_path / str(number), at, f"orch-{number}")
    ending = world.run()
    summaries = {id: machine.summary["state"] for id, machine in world.orchestrators.items()}
    assert summaries["orch-1"] == summaries["orch-3"] == "done", world.simulation.trace.text()
    assert {id: stop.status for id, stop in ending.stops.items()} == {"orch-1": 0, "orch-3": 0}


@pytest.mark.parametrize("seed", range(8))
def test_a_late_last_will_does_not_hide_the_process_that_has_taken_over(tmp_path: Path, seed: int) -> None:
    """The will of the former process is retained after its successor's `online`; who asks later must see the latter."""
    scenario = befall(
        replace(THREE, seed=seed), InjectedFault("crash", "dev-1", 6, 0.1), InjectedFault("crash", "node-1", 6, 0.1)
    )
    world = World(scenario)
    world.add_devices_and_nodes()
    world.add_orchestrator(tmp_path, 3 * NOTICE_S)
    world.run()
    assert world.orchestrators["orch"].summary["state"] == "done", world.simulation.trace.text()


def test_a_device_cannot_speak_for_another(tmp_path: Path) -> None:
    """It tells the seat to fold and to forget another's copy, and the orchestrator that this was done."""

    class RogueSession(DeviceSession):
        def _next_batch(self) -> DeviceOutcome | None:
            outcome = super()._next_batch()
            for attempt in range(1, 4):
                for message in self._lies(attempt):
                    self.send(self._chain[0], message, self.now)
                self.tell(Discarded("dev-1", attempt))
            return outcome

        def _lies(self, attempt: int) -> list[Message]:
            return [
                Accept(1, "dev-1", attempt, 1, 9, 3),
                Discard(1, "dev-1", attempt),
                Close(self._round, 1, 9),
            ]

    class Rogue(DeviceMachine):
        def session_for(self, plan: Plan, links_before: int) -> DeviceSession:
            return RogueSession(self.identity, plan, self.emit, self.max_packet, links_before)

    class RogueWorld(World):
        def device(self, id: str, boot: str) -> Any:
            machine, performer = super().device(id, boot)
            if id == "dev-2":
                machine.__class__ = Rogue
            return machine, performer

    outcome = run_and_check(THREE, tmp_path, world=RogueWorld(THREE))
    assert outcome.summary["state"] == "done", outcome.trace()
    assert rounds_of(outcome.summary, "dev-1") == rounds_of(outcome.summary, "dev-2") == [1, 2, 3]
    check_result(outcome)
