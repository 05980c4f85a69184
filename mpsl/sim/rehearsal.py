"""Rehearses a plan: the machines of a real run in virtual time, with a profile's times and a fleet's links.

All participants of the plan are started, and the rounds run to their checkpoints. Virtual time runs at a pace that
makes a round about 20 s long, however long it is in the system. So the machines' own timers (telemetry, deadlines,
acknowledgements) neither dominate a long round nor disturb a short one.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

from mpsl.errors import OutOfTime, RunFailed
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Stop
from mpsl.machines.hop import HopMachine
from mpsl.machines.interpreter import DrivenMachine
from mpsl.machines.orchestrator.machine import OrchestratorMachine
from mpsl.names import ORCHESTRATOR
from mpsl.planning.feasibility import judge
from mpsl.planning.fleet import Fleet
from mpsl.planning.plan_file import PlannedRun, PlannedSeat
from mpsl.planning.profile_file import PhaseTimes, Profile, phase_times
from mpsl.planning.service_demand import seat_memory
from mpsl.planning.system import Device, Hardware, System, system_of
from mpsl.sim.event_queue import EventQueue
from mpsl.sim.faults import NO_FAULTS
from mpsl.sim.fleet_times import FleetTimes
from mpsl.sim.profile_performers import (
    PartFigures,
    SimulatedDevicePerformer,
    SimulatedHopPerformer,
    SimulatedOrchestratorPerformer,
)
from mpsl.sim.simulated_performer import SimulatedPerformer, SimulatedResult
from mpsl.sim.simulation import Simulation, Start
from mpsl.sim.timeline import COMPUTE, Timeline
from mpsl.topics import Topics

ROUND_S = 20.0
"""The intended virtual seconds of a round."""
NEVER_S = 1e12
"""Nothing fails in a rehearsal, so it has no savepoints."""
MAX_ROUND_S = 100 * ROUND_S
"""The virtual seconds per round after which a rehearsal is given up."""

STEPS_PER_LOOK = 256
"""The number of events between two calls of `is_late`; some milliseconds."""

TOPICS = Topics("rehearsal")
RUN = "rehearsal-000000"


class Rehearsal:
    """Create it with a plan that fits the fleet (UsageError if it does not), then `run` it.

    `keep`: the timeline keeps every span.
    """

    def __init__(self, profile: Profile, fleet: Fleet, planned: PlannedRun, where: str, keep: bool = False) -> None:
        self.system = system_of(profile, fleet)
        self.planned = planned
        self.judgement = judge(self.system, planned, where)
        seconds = self.judgement.round_s
        self.pace = ROUND_S / seconds if seconds > 0 else 1.0
        self.timeline = Timeline(self.pace, keep)
        self._profile = profile
        self._fleet = fleet
        self._phases = phase_times(profile)
        self._queue = EventQueue()
        self._failure = ""

    def run(self, rounds: int, is_late: Callable[[], bool] = lambda: False) -> Timeline:
        """Run `rounds` rounds, from the opening of the first to the close of the last one.

        Raises RunFailed, and OutOfTime once `is_late` returns true.
        """
        link_mbps = self._fleet.broker.link_mbps
        assert link_mbps is not None, "a fleet without it is refused when it is read"
        times = FleetTimes(self._queue, self.system, link_mbps, self.pace, self.timeline)
        # Tests check the same machines after every event; here that would only cost time.
        simulation = Simulation(
            random.Random(0), NO_FAULTS, times, on_busy=self._computed, note=self._note, is_checked=False
        )
        for id, start in self._participants(rounds):
            simulation.add(id, start)
        timeline, limit, steps = self.timeline, MAX_ROUND_S * rounds, 0
        while len(timeline.rounds) < rounds or timeline.rounds[-1].seconds is None:
            steps += 1
            if steps % STEPS_PER_LOOK == 0 and is_late():
                raise OutOfTime(f"the time was over during a rehearsal, after {steps} events")
            if not self._queue.step(limit) or self._failure:
                raise RunFailed(f"the rehearsed run did not end: {self._failure or 'it makes no progress'}")
        return timeline

    def _participants(self, rounds: int) -> Iterator[tuple[str, Start]]:
        """Everyone's id, machine and performer."""
        hardware = {each.id: each.hardware for each in self._fleet.expanded_nodes()}
        hardware |= {each.id: each.hardware for each in self._fleet.expanded_devices()}
        for seat in self.planned.seats:
            make_hop = partial(HopMachine, seat.node, topics=TOPICS, described={"memory_budget": None})
            yield seat.node, _starting(make_hop, self._hop(seat, hardware[seat.node]))
        for device in self.system.devices:
            make_device = partial(DeviceMachine, device.id, topics=TOPICS, described={})
            yield device.id, _starting(make_device, self._device(device, hardware[device.id]))
        make = partial(OrchestratorMachine, self._job(rounds), RUN, topics=TOPICS, planned=self.planned)
        yield ORCHESTRATOR, _starting(make, self._orchestrator())

    def _computed(self, process: str, result: SimulatedResult, start: float, end: float) -> None:
        if result.activity:
            self.timeline.span(process, COMPUTE, (result.activity, result.device), start, end)

    def _note(self, now: float, process: str, what: str, fact: object) -> None:
        match fact:
            case ("round-opened", dict()):
                self.timeline.open_round(now)
            case ("committed", dict()):
                self.timeline.close_round(now)
            case ("left-out" | "failed" | "illegal-event", dict(facts)):
                self._failure = " ".join(f"{key}={value}" for key, value in facts.items())
            case Stop(status, reason) if status:
                self._failure = f"{process} would stop: {reason}"

    def _job(self, rounds: int) -> Job:
        system, job, planned = self.system, self._fleet.job, self.planned
        seats = len(planned.seats)
        return Job(
            run=RunSection(
                "rehearsal", rounds, self._profile.batch_size, job.local_epochs, job.micro_batches,
                evaluate_every=rounds + 1,
            ),
            model=ModelSection(self._profile.model, cuts=planned.cuts),
            optimizer=OptimizerSection("sgd", 1.0),
            fleet=FleetSection(len(system.devices), seats, admit=planned.admit, expected_failure_s=NEVER_S),
        )  # fmt: skip

    def _part(self, blocks: tuple[int, int], hardware: Hardware, phases: PhaseTimes) -> PartFigures:
        (first, end), system = blocks, self.system
        forward, backward, step = (seconds * self.pace for seconds in phases.of(blocks))
        weights = system.parameters[end] - system.parameters[first]
        return PartFigures(
            forward, backward, step, weights * hardware.copy_s_per_byte * self.pace, weights,
            system.stored[end] - system.stored[first], round(system.activation[end]), round(system.gradient[first]),
        )  # fmt: skip

    def _device(self, device: Device, hardware: str) -> SimulatedDevicePerformer:
        system, cuts, phases = self.system, self.planned.cuts, self._phases[hardware]
        first, last = (cuts[0], cuts[-1]) if cuts else (system.blocks, system.blocks)
        samples = device.batches // self._fleet.job.local_epochs * self._profile.batch_size
        of_first = self._part((0, first), device.hardware, phases)
        of_last = self._part((last, system.blocks), device.hardware, phases)
        return SimulatedDevicePerformer(of_first, of_last, samples)

    def _hop(self, seat: PlannedSeat, hardware: str) -> SimulatedHopPerformer:
        system = self.system
        node = next(node for node in system.nodes if node.id == seat.node)
        part = self._part(seat.blocks, node.hardware, self._phases[hardware])
        needed = seat_memory(system, *seat.blocks)
        kept = part.stored + system.output[seat.blocks[0]]

        def on_memory(size: int) -> None:
            self.timeline.memory_changed(seat.node, size, self._queue.now)

        return SimulatedHopPerformer(part, seat.stage, needed.fixed, needed.each - kept, kept, on_memory)

    def _orchestrator(self) -> SimulatedOrchestratorPerformer:
        parameters, cuts = self.system.parameters, self.planned.cuts
        whole = parameters[-1]
        device = whole - (parameters[cuts[-1]] - parameters[cuts[0]] if cuts else 0)
        stages = (parameters[end] - parameters[first] for first, end in pairwise(cuts))
        return SimulatedOrchestratorPerformer((device, *stages), self.system.blocks)


def _starting(machine: Callable[[str], DrivenMachine], performer: SimulatedPerformer) -> Start:
    return lambda boot: (machine(boot), performer)


def simulated_seconds(
    profile: Profile, fleet: Fleet, planned: PlannedRun, most: int, is_late: Callable[[], bool] = lambda: False
) -> float | None:
    """Return the seconds of the first round of `planned`.

    If it has more than `most` messages between parts, a round with fewer batches is simulated, and the omitted
    batches are added at the objective's pace. None if one batch of each device already has too many messages.
    """
    system, shorter = system_of(profile, fleet), fleet
    if (count := messages(system, planned)) > most:
        shorter = _shorter(system, fleet, profile.batch_size, most / count)
    if messages(system_of(profile, shorter), planned) > most:
        return None
    rehearsal = Rehearsal(profile, shorter, planned, "the plan")
    seconds = rehearsal.run(1, is_late).rounds[0].seconds
    if seconds is None or shorter is fleet:
        return seconds
    return seconds + judge(system, planned, "the plan").round_s - rehearsal.judgement.round_s


def _shorter(system: System, fleet: Fleet, batch_size: int, share: float) -> Fleet:
    """Return the fleet with this share of every device's batches, at least one."""
    devices = tuple(
        replace(written, samples=batch_size * max(1, int(share * device.batches)))
        for written, device in zip(fleet.expanded_devices(), system.devices, strict=True)
    )
    return replace(fleet, devices=devices, job=replace(fleet.job, local_epochs=1, batches_per_epoch=None))


def messages(system: System, planned: PlannedRun) -> int:
    """Return the number of activations and gradients that cross cuts in one round."""
    return 2 * len(planned.cuts) * system.batches * system.micro_batches
