"""A plan rehearsed: the very machines of a run in virtual time, with a profile's times and a fleet's links.

Everyone of the plan is started, the rounds are run to their checkpoints, and the record says what happened. The
orchestrator's own computing and link cost nothing here, as in the planner's objective. Virtual time runs at such a
pace that a round takes about 20 s, whatever the system's takes: then the machines' own timers (telemetry, deadlines,
acknowledgements) neither crowd a long round nor disturb a short one.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

from mpsl.errors import RunFailed
from mpsl.job import FleetSection, Job, ModelSection, OptimizerSection, RunSection
from mpsl.machines.device import DeviceMachine
from mpsl.machines.effects import Log
from mpsl.machines.hop import HopMachine
from mpsl.machines.machine import Machine
from mpsl.machines.orchestrator.machine import OrchestratorMachine
from mpsl.names import ORCHESTRATOR
from mpsl.planning.feasibility import judge
from mpsl.planning.fleet import Fleet
from mpsl.planning.plan_file import PlannedRun, PlannedSeat
from mpsl.planning.profile import PhaseTimes, Profile, phase_times
from mpsl.planning.service_demand import seat_memory
from mpsl.planning.system import Device, Hardware, System, system_of
from mpsl.sim.agenda import Agenda
from mpsl.sim.cores import Cores, Worker
from mpsl.sim.pretence import DevicePretence, HopPretence, OrchestratorPretence, PartFigures, Pretence
from mpsl.sim.record import DOWN, UP, Record
from mpsl.sim.timed_network import Client, TimedNetwork
from mpsl.sim.timed_process import TimedProcess
from mpsl.sim.wires import NO_TRUNK, Trunk, Wire
from mpsl.topics import Topics

ROUND_S = 20.0
"""Virtual seconds that a round is to take."""
MAX_S = 100 * ROUND_S
"""Virtual seconds for each round after which a rehearsal is given up."""

TOPICS = Topics("rehearsal")
RUN = "rehearsal-000000"


@dataclass(frozen=True)
class _Place:
    """A process's machine, as a computer: its cores, how fast it computes, its links' rates (bytes/s) and latency."""

    cores: Cores
    hardware: Hardware
    up: float
    down: float
    latency: float


class Rehearsal:
    """Make it with a plan that fits the fleet (UsageError where it does not), then `run` it."""

    def __init__(self, profile: Profile, fleet: Fleet, planned: PlannedRun, where: str, keep: bool = False) -> None:
        self.system = system_of(profile, fleet)
        self.planned = planned
        self.judgement = judge(self.system, planned, where)
        seconds = self.judgement.round_s
        self.pace = ROUND_S / seconds if seconds > 0 else 1.0
        self.record = Record(self.pace, keep)
        self._profile = profile
        self._fleet = fleet
        self._phases = phase_times(profile)
        self._agenda = Agenda()
        self._hosts = {name: Cores(self._agenda, cores) for name, cores in self.system.hosts.items()}
        self._inward, self._outward = (self._trunk() for _ in range(2))
        self._network = self._broker()
        self._processes: list[TimedProcess] = []
        self._failure = ""

    def run(self, rounds: int) -> Record:
        """`rounds` rounds, from the opening of the first to the last one's checkpoint. Raises RunFailed."""
        self._start(rounds)
        record, limit = self.record, MAX_S * rounds
        while len(record.rounds) < rounds or record.rounds[-1].seconds is None:
            if not self._agenda.step(limit) or self._failure:
                raise RunFailed(f"the rehearsed run came to no end: {self._failure or 'it stands still'}")
        return record

    # Who takes part

    def _start(self, rounds: int) -> None:
        system, hardware = self.system, {device.id: device.hardware for device in self._fleet.expanded_devices()}
        places = {node.id: node for node in self._fleet.expanded_nodes()}
        for number, seat in enumerate(self.planned.seats):
            hop = HopMachine(seat.node, _boot(number), TOPICS, {"memory_budget": None})
            self._add(seat.node, hop, self._hop(seat, places[seat.node].hardware), self._node_place(seat.node))
        for number, device in enumerate(system.devices, start=len(self.planned.seats)):
            machine = DeviceMachine(device.id, _boot(number), TOPICS, {})
            self._add(device.id, machine, self._device(device, hardware[device.id]), self._device_place(device))
        orchestrator = OrchestratorMachine(self._job(rounds), RUN, _boot(len(self._processes)), TOPICS, self.planned)
        still = Hardware((), 0.0, 0.0, 1, inf)
        place = _Place(Cores(self._agenda), still, inf, inf, 0.0)
        self._add(ORCHESTRATOR, orchestrator, self._orchestrator(), place)
        for process in self._processes:
            self._agenda.at(0.0, process.begin)

    def _add(self, id: str, machine: Machine, pretence: Pretence, place: _Place) -> None:
        agenda, record, pace = self._agenda, self.record, self.pace
        local = id == ORCHESTRATOR
        process = TimedProcess(
            id, machine, pretence, Worker(agenda, place.cores, place.hardware.threads), agenda, self._network, record,
            self._note,
        )  # fmt: skip

        def wire(lane: str, rate: float, trunk: Trunk) -> Wire:
            def busy(label: tuple[str, str], began: float, ended: float) -> None:
                if not local:
                    record.span(id, lane, label, began, ended)

            return Wire(agenda, rate / pace, place.latency * pace, trunk, busy)

        self._network.connect(
            Client(
                id,
                wire(UP, place.up, self._inward),
                wire(DOWN, place.down, self._outward),
                Worker(agenda, place.cores),
                place.hardware.wire_s_per_byte * pace,
                process.received,
            )
        )
        self._processes.append(process)

    def _note(self, log: Log) -> None:
        match log.event:
            case "round-opened":
                self.record.opened(self._agenda.now)
            case "committed":
                self.record.saved(self._agenda.now)
            case "left-out" | "failed":
                self._failure = " ".join(f"{key}={value}" for key, value in log.facts.items())

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
            fleet=FleetSection(len(system.devices), seats, admit=planned.admit),
        )  # fmt: skip

    # Where they are

    def _own(self, hardware: Hardware, host: str | None) -> Cores:
        return Cores(self._agenda, hardware.cores) if host is None else self._hosts[host]

    def _node_place(self, id: str) -> _Place:
        node = next(node for node in self.system.nodes if node.id == id)
        cores = self._own(node.hardware, node.host)
        return _Place(cores, node.hardware, node.rate, node.rate, self.system.broker_latency)

    def _device_place(self, device: Device) -> _Place:
        cores = self._own(device.hardware, device.host)
        return _Place(cores, device.hardware, device.up, device.down, device.latency)

    def _trunk(self) -> Trunk:
        link = self._fleet.broker.link_mbps
        return NO_TRUNK if link is None else Trunk(link * 1e6 / 8 / self.pace)

    def _broker(self) -> TimedNetwork:
        host = self.system.broker_host
        cores = Cores(self._agenda) if host is None else self._hosts[host]
        seconds = self.system.broker_s_per_byte * self.pace
        return TimedNetwork(self._agenda, self.record, Worker(self._agenda, cores), seconds)

    # What they do

    def _part(self, blocks: tuple[int, int], hardware: Hardware, phases: PhaseTimes) -> PartFigures:
        (first, end), system = blocks, self.system
        forward, backward, step = (seconds * self.pace for seconds in phases.of(blocks))
        weights = system.parameters[end] - system.parameters[first]
        return PartFigures(
            forward, backward, step, weights * hardware.copy_s_per_byte * self.pace, weights,
            system.stored[end] - system.stored[first], round(system.activation[end]), round(system.gradient[first]),
        )  # fmt: skip

    def _device(self, device: Device, hardware: str) -> DevicePretence:
        system, cuts, phases = self.system, self.planned.cuts, self._phases[hardware]
        first, last = (cuts[0], cuts[-1]) if cuts else (system.blocks, system.blocks)
        samples = device.batches // self._fleet.job.local_epochs * self._profile.batch_size
        of_first = self._part((0, first), device.hardware, phases)
        of_last = self._part((last, system.blocks), device.hardware, phases)
        return DevicePretence(of_first, of_last, samples)

    def _hop(self, seat: PlannedSeat, hardware: str) -> HopPretence:
        system = self.system
        node = next(node for node in system.nodes if node.id == seat.node)
        part = self._part(seat.blocks, node.hardware, self._phases[hardware])
        needed = seat_memory(system, *seat.blocks)
        kept = part.stored + system.output[seat.blocks[0]]

        def holds(size: int) -> None:
            self.record.holds(seat.node, size, self._agenda.now)

        return HopPretence(part, seat.stage, needed.fixed, needed.each - kept, kept, holds)

    def _orchestrator(self) -> OrchestratorPretence:
        parameters, cuts = self.system.parameters, self.planned.cuts
        whole = parameters[-1]
        device = whole - (parameters[cuts[-1]] - parameters[cuts[0]] if cuts else 0)
        stages = (parameters[end] - parameters[first] for first, end in pairwise(cuts))
        return OrchestratorPretence((device, *stages), self.system.blocks)


def simulated_seconds(profile: Profile, fleet: Fleet, planned: PlannedRun, most: int) -> float | None:
    """Seconds of the first round of `planned`.

    Where it has more than `most` messages between parts, a round with fewer batches is simulated, and those left out
    are added at the objective's pace. None where one batch of each device is too many messages already.
    """
    system, shorter = system_of(profile, fleet), fleet
    if (count := messages(system, planned)) > most:
        shorter = _shorter(system, fleet, profile.batch_size, most / count)
    if messages(system_of(profile, shorter), planned) > most:
        return None
    rehearsal = Rehearsal(profile, shorter, planned, "the plan")
    seconds = rehearsal.run(1).rounds[0].seconds
    if seconds is None or shorter is fleet:
        return seconds
    return seconds + judge(system, planned, "the plan").round_s - rehearsal.judgement.round_s


def _shorter(system: System, fleet: Fleet, batch_size: int, share: float) -> Fleet:
    """The same fleet where every device has this share of its batches, at least one."""
    devices = tuple(
        replace(written, samples=batch_size * max(1, int(share * device.batches)))
        for written, device in zip(fleet.expanded_devices(), system.devices, strict=True)
    )
    return replace(fleet, devices=devices, job=replace(fleet.job, local_epochs=1, batches_per_epoch=None))


def messages(system: System, planned: PlannedRun) -> int:
    """Activations and gradients that cross a cut in one round."""
    return 2 * len(planned.cuts) * system.batches * system.micro_batches


def _boot(number: int) -> str:
    return f"{number:08x}"
