"""Gathering and joining: waits for a fleet, seats it, and hears from everyone whether it can take part."""

from typing import TYPE_CHECKING

from mpsl.batches import smallest_micro_batch
from mpsl.job import Job
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits
from mpsl.machines.effects import CancelTimer, Run, SetTimer
from mpsl.machines.jobs import BuildModel, LayOut
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.machines.seating import Seating, seat_everyone
from mpsl.messages import Joined
from mpsl.names import ORCHESTRATOR
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import Address, Branch

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState


class Gathering:
    """From the first connection until everyone of the plan has answered."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._joined_seats: set[Address] = set()
        self._strangers: set[str] = set()
        self.started_at: float | None = None
        """When the broker first took us."""

    def begin(self) -> None:
        """We are online; the first time this starts the run's clock and the making of the model."""
        machine = self._machine
        if self.started_at is None:
            self.started_at = machine.now
            until = machine.now + machine.job.fleet.start_timeout_s
            machine.do(SetTimer("start", until), Run(BuildModel(machine.job)))

    def gather(self) -> None:
        """Seat everyone once the fleet is there and the model's facts are known."""
        machine, fleet = self._machine, self._machine.job.fleet
        other = machine.census.of_other_protocol()
        if other is not None:
            machine.fail(
                f"{other.branch}/{other.id} speaks protocol {other.status.get('protocol')}, this orchestrator another; "
                "install the same version or use another --net"
            )
            return
        if machine.model is None or self.missing():
            return
        nodes, devices = machine.census.free("node", machine.now), machine.census.free("dev", machine.now)
        if machine.planned is None:
            nodes, devices = nodes[: fleet.nodes], devices[: fleet.devices]
        else:
            named = _named_by(machine.planned)
            nodes, devices = ([each for each in free if (each.branch, each.id) in named] for free in (nodes, devices))
        if machine.profiling.wanted([*nodes, *devices]):
            machine.profiling.begin(nodes, devices)
        else:
            self.seat(machine.job, Seating(nodes, devices, machine.run, machine.boot, machine.planned))

    def seat(self, job: Job, seating: Seating) -> None:
        """Seat these for a job that may have been given its cuts meanwhile, and tell everyone."""
        machine = self._machine
        assert machine.model is not None
        plan = seat_everyone(job, machine.model, seating)
        if isinstance(plan, str):
            machine.fail(plan)
            return
        machine.plan = plan
        machine.members = {id: Member(id, entry.boot) for id, entry in plan.devices.items()}
        machine.seats = {seat.address: seat for seat in plan.seats}
        chunk = min(machine.job.wire.chunk_bytes, (machine.max_packet or CHUNK_BYTES * 1024) - 1024)
        limits = Limits(chunk, message=plan.message_bytes)
        machine.channel = Channel(machine.topics, machine.run, ORCHESTRATOR, machine.boot, plan.term, limits)
        machine.set_peers()
        machine.state = S.JOINING
        seats = [seat.node for seat in plan.seats]
        machine.log("info", "seated", run=machine.run, cuts=list(plan.cuts), admit=plan.admit, seats=seats)
        if plan.shortfall:
            machine.log("warning", "short-of-memory", run=machine.run, reason=plan.shortfall)
        machine.do(Run(LayOut(plan, machine.profiling.predicted, machine.profiling.links.figures)))
        machine.status_publisher.publish_plan()

    def missing(self) -> list[str]:
        """Whom the plan names and who is not there; without a plan how many devices and nodes, in words."""
        machine, fleet = self._machine, self._machine.job.fleet
        if machine.planned is not None:
            return [id for branch, id in _named_by(machine.planned) if not self._is_free(branch, id)]
        missing = (
            (fleet.devices - machine.census.count_free("dev", machine.now), "device"),
            (fleet.nodes - machine.census.count_free("node", machine.now), "node"),
        )
        return [f"{count} more {what}{'s' if count > 1 else ''}" for count, what in missing if count > 0]

    def _is_free(self, branch: Branch, id: str) -> bool:
        presence = self._machine.census.get(branch, id)
        return presence is not None and presence.free(self._machine.now)

    def note_strangers(self) -> None:
        """Say once of each who could take part that the plan has no place for it."""
        machine = self._machine
        if machine.planned is None:
            return
        named = _named_by(machine.planned)
        branches: tuple[Branch, ...] = ("node", "dev")
        for presence in [each for branch in branches for each in machine.census.free(branch, machine.now)]:
            if (presence.branch, presence.id) not in named and presence.id not in self._strangers:
                self._strangers.add(presence.id)
                machine.log("warning", "not-in-the-plan", run=machine.run, role=presence.branch, id=presence.id)

    def not_joined(self) -> list[str]:
        """Who has not answered the plan yet."""
        machine = self._machine
        nodes = [seat.node for address, seat in machine.seats.items() if address not in self._joined_seats]
        return nodes + [m.id for m in machine.members.values() if not m.joined and not m.refusal]

    def too_late(self) -> None:
        """start_timeout_s is over."""
        limit = self._machine.job.fleet.start_timeout_s
        missing = ", ".join(self._machine.waiting_for())
        strangers = f"; there, but not in the plan: {', '.join(sorted(self._strangers))}" if self._strangers else ""
        self._machine.fail(
            f"not everyone was there after start_timeout_s = {limit:g} s; waiting for: {missing}{strangers}"
        )

    def joined(self, source: str, message: Joined) -> None:
        """Someone of the plan can, or cannot, take part."""
        machine = self._machine
        seat = machine.seat_of(source)
        if seat is not None:
            if message.refusal:
                machine.fail(f"node {source} cannot take seat {seat.address}: {message.refusal}")
                return
            self._joined_seats.add(seat.address)
        else:
            member = machine.members[source]
            member.joined, member.refusal = not message.refusal, message.refusal
            member.samples, member.test_batches = message.samples, message.test_batches
            if message.refusal:
                machine.log("error", "refused", device=source, reason=message.refusal)
        self.maybe_complete()

    def maybe_complete(self) -> None:
        """Everyone has answered and the parts are laid out: load the seats, where enough devices can take part."""
        machine = self._machine
        if machine.state is not S.JOINING or not machine.loading.is_laid_out or self.not_joined():
            return
        members, quorum = machine.members.values(), machine.job.quorum
        refusals = [f"{m.id}: {m.refusal}" for m in members if m.refusal]
        if len(members) - len(refusals) < quorum:
            machine.fail(
                f"{len(refusals)} of {len(members)} devices cannot take part, quorum is {quorum}: {'; '.join(refusals)}"
            )
            return
        alone = self._one_value_norm()
        if alone:
            machine.fail(alone)
            return
        machine.do(CancelTimer("start"))
        machine.loading.begin()

    def _one_value_norm(self) -> str:
        """A BatchNorm that would see one value per channel, as a reason; empty where there is none."""
        model, run = self._machine.model, self._machine.job.run
        assert model is not None
        for member in self._machine.members.values():
            if member.samples and model.single_value_norms:
                least = smallest_micro_batch(member.samples, run.batch_size, run.micro_batches)
                if least == 1:
                    return (
                        f"{member.id} has {member.samples} samples: with batch_size = {run.batch_size} and "
                        f"micro_batches = {run.micro_batches} a micro-batch of 1 comes up, and "
                        f"{model.single_value_norms[0]} would see one value per channel; "
                        "choose a batch_size that leaves another rest"
                    )
        return ""


def _named_by(planned: PlannedRun) -> dict[tuple[Branch, str], None]:
    """Everyone of a plan: its nodes, then its devices."""
    nodes: list[tuple[Branch, str]] = [("node", seat.node) for seat in planned.seats]
    return dict.fromkeys([*nodes, *(("dev", id) for id in planned.devices)])
