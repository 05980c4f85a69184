"""A simulated run from a seed: real machines and performers, tiny models, injected faults.

The invariants that a run keeps whatever happens are checked here, after every event and at its end.
"""

import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from failing_disk import FailingDisk
from leftovers import check_nothing_is_left, check_nothing_is_left_at_the_end, performer_of
from safetensors.torch import load_file
from scenarios import Scenario
from tally import Tally

from benchmarks.oracle import OracleSetting, oracle, stages_of
from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl import facts
from mpsl.job import read_job
from mpsl.machines.device import DeviceMachine
from mpsl.machines.hop import HopMachine
from mpsl.machines.jobs import WorkerJob
from mpsl.machines.orchestrator import OrchestratorMachine, OrchestratorState
from mpsl.machines.participant import Participant
from mpsl.nn.models import build
from mpsl.plan import Plan
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.process import Process
from mpsl.sim.simulated_performer import TimedPerformer
from mpsl.sim.simulation import Simulation, SimulationEnd, Start
from mpsl.sim.times import Times
from mpsl.topics import Topics
from orchestrator.performer import OrchestratorPerformer
from orchestrator.plan_option import job_as_planned
from orchestrator.run_records import read_records
from orchestrator.unfinished_run import unfinished_run

TOPICS = Topics("sim")


Duration = Callable[[str, WorkerJob], float]
"""Virtual seconds of a job of this process; infinite for a job that never ends."""


DEADLINE_S = 3600.0
"""Virtual seconds after which a process that still runs counts as hung."""


LETTING_GO_S = 5.0


TRACE_LENGTH = 6_000


TRACE_LINES = 400


@dataclass
class Outcome:
    """The outcome of a simulated run."""

    scenario: Scenario
    simulation: Simulation
    ending: SimulationEnd
    summary: dict[str, Any]
    out: Path
    most_copies: dict[str, int] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    """What happened, and how often."""

    @property
    def status(self) -> dict[str, int]:
        """Exit status of everyone who stopped."""
        return {id: stop.status for id, stop in self.ending.stops.items()}

    def trace(self) -> str:
        """The end of the trace, and the summary."""
        last = self.simulation.trace.text().splitlines()[-TRACE_LINES:]
        return "\n".join([*last, f"summary: {self.summary}"])


class World:
    """The processes of a scenario; `once`: devices and nodes leave after a run, otherwise they wait for the next."""

    def __init__(
        self,
        scenario: Scenario,
        duration: Duration | None = None,
        once: bool | None = None,
        times: Callable[[EventQueue], Times] = Times,
    ) -> None:
        torch.set_num_threads(1)
        self.scenario = scenario
        self.chance = random.Random(scenario.seed)
        self.orchestrators: dict[str, OrchestratorMachine] = {}
        self.most_copies: dict[str, int] = {}
        self.made = 0
        self.job_changes: dict[str, Any] = {}
        """Keys of [fleet] that are not as in the scenario."""
        self._once = scenario.once if once is None else once
        self.tally = Tally()
        self._duration = duration or self._any_duration
        self._shards = scenario.shards()
        self.simulation = Simulation(
            self.chance,
            scenario.faults,
            times(EventQueue()),
            self._watch,
            note=self._note,
            max_packet=scenario.max_packet,
            trace_length=TRACE_LENGTH,
        )

    def add_devices_and_nodes(self) -> None:
        """All of the scenario's, within two seconds."""
        self.add_nodes()
        for id in self.scenario.devices:
            self.add_device(id, self.chance.uniform(0, 2))

    def add_nodes(self) -> None:
        """All of the scenario's, within two seconds; standbys after the others."""
        for id in [*self.scenario.nodes, *self.scenario.spare_nodes]:
            self.add_node(id, self.chance.uniform(0, 2) if id in self.scenario.nodes else 5.0)

    def add_node(self, id: str, at: float) -> None:
        """A compute node."""
        self.simulation.add(id, self.starting(id, lambda boot: self._hop(id, boot)), at)

    def add_device(self, id: str, at: float) -> None:
        """One of the scenario's."""
        self.simulation.add(id, self.starting(id, lambda boot: self.device(id, boot)), at)

    def add_orchestrator(self, out: Path, at: float, id: str = "orch") -> None:
        """A process `id` that conducts one run."""

        def start(boot: str) -> Any:
            made = self.made
            self.made += 1
            content, planned = self.scenario.job(), self.scenario.planned
            content["fleet"] |= self.job_changes
            job = read_job(content, "job")
            if planned is not None:
                job = job_as_planned(job, planned, "plan")
            unfinished = unfinished_run(out, job, planned) if id in self.orchestrators else None
            run = unfinished.manifest.run if unfinished else f"sim-{made:06x}"
            machine = OrchestratorMachine(job, run, boot, TOPICS, planned, unfinished)
            self.orchestrators[id] = machine
            self.tally["resumed by another orchestrator"] += unfinished is not None
            return machine, OrchestratorPerformer(out, run, unfinished)

        self.simulation.add(id, self.starting(id, start), at)

    def add_successor(self, out: Path, at: float, id: str = "orch-2") -> None:
        """A process `id` that goes on with the run of `out`, where another one may still be alive."""

        def start(boot: str) -> Any:
            job = read_job(self.scenario.job(), "job")
            unfinished = unfinished_run(out, job, None)
            assert unfinished is not None
            machine = OrchestratorMachine(job, unfinished.manifest.run, boot, TOPICS, None, unfinished)
            self.orchestrators[id] = machine
            return machine, OrchestratorPerformer(out, machine.run_state.run, unfinished)

        self.simulation.add(id, self.starting(id, start), at)

    def starting(self, id: str, make: Callable[[str], Any]) -> Start:
        """The start of a process whose machine and real performer `make(boot)` makes."""

        def is_full() -> bool:
            return self.simulation.queue.now < self.simulation.disk_fails_until.get(id, 0.0)

        def start(boot: str) -> Any:
            machine, performer = make(boot)
            disk = FailingDisk(performer, self.chance, is_full)
            return machine, TimedPerformer(disk, lambda job: self._duration(id, job), self.chance, disk.die_in)

        return start

    def device(self, id: str, boot: str) -> Any:
        """A device's machine and performer."""
        return DeviceMachine(id, boot, TOPICS, {}, self._once), DevicePerformer(id, self._shards[id])

    def _hop(self, id: str, boot: str) -> Any:
        return HopMachine(id, boot, TOPICS, {"memory_budget": None}, self._once), HopPerformer(id)

    def run(self) -> SimulationEnd:
        """Until the run is over for everyone, or nobody can say that it still goes on."""
        ending = self.simulation.run(0.0)
        settled_at = inf
        # Whoever stays has a few seconds to let go of what the run has left.
        while not self.simulation.is_over and ending.seconds < min(DEADLINE_S, settled_at + LETTING_GO_S):
            ending = self.simulation.run(ending.seconds + LETTING_GO_S)
            settled_at = min(settled_at, ending.seconds) if is_settled(self.simulation) else inf
        return ending

    def _any_duration(self, process: str, job: WorkerJob) -> float:
        return self.chance.uniform(0, self.scenario.slowest_job_s)

    def _note(self, now: float, process: str, what: str, fact: object) -> None:
        if isinstance(fact, tuple):
            self.tally.note(*fact)
        self.simulation.trace.note(now, process, what, fact)

    def _watch(self, process: Process) -> None:
        machine, performer = process.machine, performer_of(process)
        if isinstance(machine, HopMachine) and isinstance(performer, HopPerformer):
            copies = sum(len(session.copies) for session in machine.sessions.values())
            alive = max(copies, performer.copies_alive)
            self.most_copies[process.id] = max(alive, self.most_copies.get(process.id, 0))
        elif isinstance(machine, OrchestratorMachine) and machine.state is OrchestratorState.REPORTING:
            seated = {seat.node for seat in machine.run_state.seats.values()}
            check_nothing_is_left(self.simulation.processes, seated)


def simulate(scenario: Scenario, out: Path, duration: Duration | None = None, world: World | None = None) -> Outcome:
    """Run a scenario to its end."""
    world = world or World(scenario, duration)
    world.add_orchestrator(out, world.chance.uniform(0, 2))
    world.add_devices_and_nodes()
    with mock.patch.object(os, "fsync", return_value=None):  # no computer crashes here, only processes
        ending = world.run()
    summary = world.orchestrators["orch"].summary
    world.tally.ended(scenario, summary, "orch" in ending.stops)
    return Outcome(scenario, world.simulation, ending, summary, out, world.most_copies, world.tally)


def is_settled(simulation: Simulation) -> bool:
    """Whether everything is over: a device or node that is in no run may wait for the next one forever."""
    now = simulation.queue.now
    return not simulation.pending_starts and all(
        process.over
        or (
            isinstance(process.machine, Participant)
            and not process.machine.sessions
            and all(session is None for session, _ in process.timers)  # its link may still be measured
            and process.frozen_until <= now
        )
        for process in simulation.processes.values()
    )


def check(outcome: Outcome) -> None:
    """Assert what holds for every run: nothing hangs; it ends with the oracle's result, or fails with a reason."""
    ending, summary, scenario = outcome.ending, outcome.summary, outcome.scenario
    assert is_settled(outcome.simulation), f"hang at {ending.seconds:.0f} s: {ending.hung}"
    assert summary["state"] in ("done", "failed")
    check_nothing_is_left_at_the_end(outcome.simulation, outcome.out, summary)
    if "orch" not in outcome.status:
        return  # it has crashed: that everyone has left is all there is to say
    assert outcome.status["orch"] == (0 if summary["state"] == "done" else 1)
    if summary["state"] == "failed":
        assert summary["reason"]
        return
    if len(summary["terms"]) == 1:  # later a node may have had several seats
        content = json.loads((outcome.out / "plan.json").read_text())
        content.pop("predicted", None)
        content.pop("links", None)
        plan = facts.read(Plan, content, "plan")
        admit = scenario.admit or plan.admit_most
        places = {seat.node: plan.places(seat.address, admit) for seat in plan.seats}
        assert all(most <= places.get(node, 0) for node, most in outcome.most_copies.items()), (
            f"{outcome.most_copies} copies, {places} places with G = {admit}"
        )
    check_result(outcome)
    check_passages(outcome)


def check_passages(outcome: Outcome) -> None:
    """The recorded moments of every device and round are those of the ledger: who was in when, and who was left out."""
    records, scenario = read_records(outcome.out), outcome.scenario
    admit = scenario.admit or len(scenario.devices)
    for entry in outcome.summary["rounds"]:
        lines = {record.device: record for record in records.of_round(entry["round"])}
        taken, out = set(entry["devices"]), entry["left_out"]
        assert lines.keys() >= taken | out.keys()
        # Who came after the round was closed may have been evaluated all the same.
        assert all(lines[id].accuracy is not None for id in lines.keys() - taken - out.keys())
        of_round = {id: lines[id] for id in taken | out.keys()}
        accepted = sorted((r for r in of_round.values() if r.contributed), key=lambda r: r.accepted_s or 0.0)
        assert {record.device for record in accepted} == taken
        moments = [record.accepted_s for record in accepted]
        assert moments == [of_round[id].accepted_s for id in entry["devices"]], "in the order of acceptance"
        for record in accepted:
            assert record.admitted_s is not None
            assert record.complete_s is not None
            assert record.accepted_s is not None
            assert 0 <= record.admitted_s <= record.complete_s <= record.accepted_s <= entry["seconds"]
            assert (record.left_out, record.left_out_s) == (None, None)
        for record in of_round.values():
            if not record.contributed:
                assert record.left_out == out[record.device] != ""
                assert 0 <= (record.left_out_s or 0.0) <= entry["seconds"]
                assert record.accepted_s is None
        inside = [r for r in of_round.values() if r.admitted_s is not None]
        for one in inside:
            others = [r for r in inside if (r.admitted_s or 0) <= (one.admitted_s or 0) < (r.ended_s or 0)]
            assert len(others) <= admit


def check_result(outcome: Outcome) -> None:
    """The committed model, losses and accuracies are the oracle's, over exactly the accepted devices."""
    scenario, summary = outcome.scenario, outcome.summary
    shards = scenario.shards()
    accepted = [entry["devices"] for entry in summary["rounds"]]
    assert len(accepted) == scenario.rounds
    for entry in summary["rounds"]:
        assert len(set(entry["devices"])) == len(entry["devices"])
        assert entry["samples"] == sum(shards[id].samples for id in entry["devices"])
    stages = [stages_of(entry) for entry in summary["rounds"]]
    state, losses = oracle(setting_of(scenario), {id: (s.x, s.y) for id, s in shards.items()}, accepted, stages)
    found = load_file(outcome.out / "model.safetensors")
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name].reshape(tensor.shape), tensor), f"{name} differs by {found[name] - tensor}"
    for entry, loss in zip(summary["rounds"], losses, strict=True):
        assert math.isclose(entry["loss"], loss, rel_tol=1e-9), f"loss {entry['loss']}, the oracle's is {loss}"
    tested = [shards[id] for id in scenario.devices if shards[id].test_samples]
    if tested and not scenario.faults.injected and all(set(devices) == set(scenario.devices) for devices in accepted):
        model = build("mlp", **scenario.model_args)
        model.load_state_dict(state)
        model.eval()
        right = [(model(torch.from_numpy(s.x_test)).argmax(1).numpy() == s.y_test).sum() for s in tested]
        assert summary["accuracy"] == sum(right) / sum(s.test_samples for s in tested)


def setting_of(scenario: Scenario) -> OracleSetting:
    """The scenario in the form that the oracle takes."""
    return OracleSetting(
        model="mlp",
        args=scenario.model_args,
        optimizer=scenario.optimizer,
        lr=0.05,
        rounds=scenario.rounds,
        batch_size=scenario.batch_size,
        local_epochs=scenario.local_epochs,
        micro_batches=scenario.micro_batches,
        momentum=scenario.momentum,
        seed=scenario.seed,
        shuffle=scenario.shuffle,
    )


def run_and_check(
    scenario: Scenario, out: Path, duration: Duration | None = None, world: World | None = None
) -> Outcome:
    """Simulate and check; a failure says how to reproduce it and what happened last."""
    outcome = simulate(scenario, out, duration, world)
    try:
        check(outcome)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{outcome.trace()}\nthat was {scenario}: {error}") from None
    return outcome
