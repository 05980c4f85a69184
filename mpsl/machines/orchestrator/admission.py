"""The open round: admits G devices at a time, takes their updates, accepts what agrees with every hop's count."""

from typing import TYPE_CHECKING

from mpsl.batches import batches_per_epoch
from mpsl.machines.census import Presence
from mpsl.machines.effects import Run, SetTimer, Write
from mpsl.machines.jobs import Exported, FoldUpdate
from mpsl.machines.members import Member, Place, RoundLedger
from mpsl.machines.orchestrator.pace import Pace, Reading
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Accept, Admit, Evaluate, Finished, Slice, Update

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState


class Admission:
    """Who is in; for an evaluation as well, which goes through the same seats."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._device_slices: Exported | None = None
        self._pace: Pace | None = None

    def ready(self) -> list[str]:
        """Devices that can take part now."""
        return [member.id for member in self._machine.members.values() if self._is_ready(member)]

    def _is_ready(self, member: Member) -> bool:
        presence = self._machine.census.get("dev", member.id)
        there = presence is not None and presence.online and presence.boot == member.boot
        return there and member.joined and member.cleared and not member.refusal

    def batches_of(self, member: Member) -> int:
        """How many optimizer steps a round has for a device, all local epochs together."""
        run = self._machine.job.run
        return batches_per_epoch(member.samples, run.batch_size) * run.local_epochs

    def open_round(self) -> None:
        """The next round, where enough devices are left."""
        machine = self._machine
        assert machine.plan is not None
        ready, quorum = self.ready(), machine.job.quorum
        if len(ready) < quorum:
            missing = ", ".join(sorted(set(machine.members) - set(ready)))
            number = machine.round + 1
            machine.fail(f"round {number}: {len(ready)} devices are left, quorum is {quorum}; missing: {missing}")
            return
        machine.round += 1
        machine.state = S.OPEN
        self._pace = self._pace or Pace(machine.plan.admit, machine.plan.admit_most)
        self._pace.interrupted()
        machine.book = RoundLedger(machine.round, self._pace.admit, machine.members, machine.plan, machine.now)
        machine.book.open_to(ready)
        if machine.job.fleet.round_timeout_s is not None:
            machine.do(SetTimer("round", machine.now + machine.job.fleet.round_timeout_s))
        facts = {"run": machine.run, "term": machine.plan.term, "round": machine.round, "devices": len(ready)}
        machine.log("info", "round-opened", **facts)
        self.fetch_device_slices(machine.round - 1)
        machine.status_publisher.publish(force=True)

    def fetch_device_slices(self, version: int) -> None:
        """The slices of the committed first and last parts, once a version; then admission goes on."""

        def keep(exported: Exported) -> None:
            self._device_slices = exported
            self.admit_more()

        self._device_slices = None
        self._machine.loading.export(None, version, keep)

    def admit_more(self) -> None:
        """Give away the free places; go on once everyone is accepted or out."""
        machine, book = self._machine, self._machine.book
        if book is None or self._device_slices is None or machine.state not in (S.OPEN, S.EVALUATING):
            return
        while (member := book.next_admission()) is not None:
            member.place = Place.ADMITTED
            member.attempt += 1
            member.progress = (0, "", 0)
            member.progress_at = member.batch_at = machine.now
            self._call(member, book, self._device_slices)
        if not book.decided:
            return
        if machine.state is S.OPEN:
            machine.closing.begin(book)
        else:
            machine.evaluation.done(book)

    def seen(self, presence: Presence) -> None:
        """A node's telemetry: one more device may be in where the busiest seat idles though all places are taken."""
        machine, book, seat = self._machine, self._machine.book, self._machine.seat_of(presence.id)
        if presence.branch != "node" or seat is None or book is None or self._pace is None:
            return
        serving = {address for id in machine.members for address in machine.chain(id)}
        if seat.address not in serving:
            return
        if machine.state is not S.OPEN or not book.at(Place.WAITING) or len(book.at(Place.ADMITTED)) < book.most:
            self._pace.interrupted()
            return
        said = presence.telemetry
        try:
            reading = Reading(float(said["uptime_s"]), float(said["busy_s"]), int(said["steps"]))
        except (KeyError, TypeError, ValueError):
            return
        if self._pace.seen(seat.address, reading, len(serving), book.plan.places(seat.address, self._pace.admit)):
            book.most = self._pace.admit
            machine.log("info", "admitting-more", run=machine.run, round=machine.round, admit=book.most)
            self.admit_more()

    def _call(self, member: Member, book: RoundLedger, slices: Exported) -> None:
        machine = self._machine
        training = machine.state is S.OPEN
        version = book.round - 1 if training else book.round
        if training:
            admit = Admit(book.round, member.id, member.boot, member.attempt, self.batches_of(member))
            for address in machine.chain(member.id):
                machine.send(address, admit)
            machine.send(member.id, admit)
        else:
            machine.send(member.id, Evaluate(book.round, member.attempt))
        if member.held != version:
            member.held = version
            machine.send_slices(member.id, slices)
        if training:
            member.held = -1  # training changes them

    def slice(self, source: str, message: Slice) -> None:
        """A piece of a device's update."""
        member = self._admitted(source, message)
        if member is not None:
            member.arrivals.add(message)
            member.progress_at = self._machine.now
            self._machine.do(Write(source, message))
            self._consider(member)

    def update(self, source: str, message: Update) -> None:
        """A device says that its update is whole."""
        member = self._admitted(source, message)
        if member is not None:
            member.update = message
            self._consider(member)

    def finished(self, source: str, message: Finished) -> None:
        """A seat has made all of a device's steps."""
        member, seat = self._admitted(message.device, message), self._machine.seat_of(source)
        if member is not None and seat is not None and message.batches == self.batches_of(member):
            member.finished.add(seat.address)
            self._consider(member)

    def _admitted(self, device: str, message: Slice | Update | Finished) -> Member | None:
        """The device, where it is in its round with the attempt that the message names."""
        member = self._machine.members.get(device)
        if member is not None and member.place is Place.ADMITTED and message.attempt == member.attempt:
            return member
        self._machine.drop(message, "of another attempt")
        return None

    def _consider(self, member: Member) -> None:
        """Accept a device whose update is whole and agrees with what every hop counted."""
        machine, book, update = self._machine, self._machine.book, member.update
        if book is None or update is None or member.arrivals.bytes != machine.loading.device_bytes:
            return
        due, chain = self.batches_of(member), machine.chain(member.id)
        if update.batches != due or update.samples != member.samples:
            machine.departures.discard(member, f"made {update.batches} batches, {due} were due")
            return
        if not member.finished >= set(chain):
            return
        member.place = Place.ACCEPTED
        member.last_seconds = update.seconds
        book.accepted[member.id] = member.samples
        number = len(book.accepted)
        accept = Accept(machine.round, member.id, member.attempt, number, member.samples, update.batches)
        for address in [*chain, member.id]:
            machine.send(address, accept)
        machine.closing.folding += 1
        machine.do(Run(FoldUpdate(member.id, member.attempt, member.samples)))
        machine.log("info", "accepted", run=machine.run, round=machine.round, device=member.id, number=number)
        self.admit_more()

    def too_late(self) -> None:
        """round_timeout_s is over: whoever is not accepted is left out."""
        machine, book = self._machine, self._machine.book
        if machine.state is not S.OPEN or book is None:
            return
        for member in book.at(Place.WAITING):
            member.place = Place.OUT
        for member in book.at(Place.ADMITTED):
            limit = machine.job.fleet.round_timeout_s
            machine.departures.discard(member, f"was not done after round_timeout_s = {limit:g} s")
        machine.departures.after_loss()
