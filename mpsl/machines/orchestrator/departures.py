"""Those who go: a lost or silent node ends the run, a lost, silent or stuck device is left out of the round."""

from typing import TYPE_CHECKING

from mpsl.machines.census import Presence
from mpsl.machines.members import Member, Place
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import CopyFailed, Discard, Discarded, Fault
from mpsl.plan import Seat

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

STALL_S = 90.0
"""How long a step that waits for seats may go without hearing anything from any of them."""
FIRST_PATIENCE_S = 300.0
"""How long a device may make no progress before anyone has made a batch."""
MIN_PATIENCE_S = 90.0
PATIENCE = 20.0
"""How long afterwards: at least so many seconds, and so many times the longest batch that was seen."""


class Departures:
    """Watches over everyone of the plan, and clears up after a device that is left out."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._slowest_batch = 0.0
        self._present_nodes: set[str] = set()
        """Nodes whose `info` has said that they are in this run."""

    # Noticing

    def seen(self, presence: Presence) -> None:
        """Someone's status, info or telemetry has changed."""
        machine = self._machine
        if machine.state is S.ENDING or machine.plan is None:
            return
        if presence.branch == "node":
            seat = machine.plan.seat_of(presence.id)
            if seat is not None:
                self._seen_node(presence, seat)
            return
        member = machine.members.get(presence.id)
        if member is None or not presence.status:
            return
        if presence.boot != member.boot:
            if presence.online and presence.info.get("boot") == presence.boot:
                self._came_back(member, presence.boot)
        elif not presence.online:
            self._gone(member, f"is {presence.status.get('state')}")
        elif self._has_left(presence, member.present):
            member.joined = member.present = False
            self._gone(member, "is no longer in the run")
        else:
            member.present = member.present or self._is_present(presence)
            self._note_progress(member, presence)

    def _seen_node(self, presence: Presence, seat: Seat) -> None:
        why = ""
        if presence.boot != seat.boot:
            why = "replaced by another process"
        elif not presence.online:
            why = str(presence.status.get("state"))
        elif self._has_left(presence, seat.node in self._present_nodes):
            why = "no longer in the run"
        elif self._is_present(presence):
            self._present_nodes.add(seat.node)
        if why:
            self._machine.fail(f"node {seat.node} (seat {seat.address}) is {why}")

    def _is_present(self, presence: Presence) -> bool:
        """Whether its `info` says that it is in this run."""
        return presence.info.get("boot") == presence.boot and presence.info.get("run") == self._machine.run

    def _has_left(self, presence: Presence, was_present: bool) -> bool:
        """Whether it has left by itself: it fell out with us while one of us had no connection."""
        return was_present and presence.info.get("boot") == presence.boot and not self._is_present(presence)

    def _note_progress(self, member: Member, presence: Presence) -> None:
        told = presence.telemetry
        batch, received = told.get("batch"), told.get("received")
        if not isinstance(batch, int) or not isinstance(received, int):
            return
        progress = (batch, str(told.get("state")), received)
        if progress == member.progress:
            return
        now, steps = self._machine.now, batch - member.progress[0]
        if steps > 0 and member.progress[1] == "training":
            self._slowest_batch = max(self._slowest_batch, (now - member.batch_at) / steps)
        if progress[:2] != member.progress[:2]:
            member.batch_at = now
        member.progress = progress
        member.progress_at = now

    def watch(self) -> None:
        """Deadlines of everyone who is waited for."""
        machine, now = self._machine, self._machine.now
        for seat in machine.seats.values():
            presence = machine.census.get("node", seat.node)
            if presence is not None and not presence.alive(now):
                machine.fail(f"node {seat.node} (seat {seat.address}) has said nothing for too long")
                return
        seen = self._slowest_batch
        patience = max(MIN_PATIENCE_S, PATIENCE * seen) if seen else FIRST_PATIENCE_S
        for member in list(machine.members.values()):
            presence = machine.census.get("dev", member.id)
            if presence is not None and not presence.alive(now):
                self._gone(member, "is silent")
            elif member.place is Place.ADMITTED and now - member.progress_at > patience:
                self.discard(member, f"made no progress for {patience:.0f} s")
            elif member.place is Place.DISCARDING and now - member.discarded_at > STALL_S:
                silent = ", ".join(
                    f"{machine.seats[address].node} (seat {address})" for address in sorted(member.unclear)
                )
                machine.fail(f"{silent} has not forgotten {member.id}, which was left out {STALL_S:.0f} s ago")
                return
        if machine.state in (S.LOADING, S.CLOSING, S.COMMITTING) and now - machine.heard_at > STALL_S:
            waiting = ", ".join(machine.waiting_for())
            machine.fail(f"{machine.state.value}: nothing heard for {STALL_S:.0f} s; waiting for: {waiting}")

    def fault(self, source: str, message: Fault) -> None:
        """A job failed there: a device is left out from now on, without a node the run cannot go on."""
        member = self._machine.members.get(source)
        if member is None:
            self._machine.fail(f"node {source}: {message.reason}")
            return
        self._unfit(member, message.reason)

    def copy_failed(self, source: str, message: CopyFailed) -> None:
        """A seat cannot compute with what came from a device, or with its copy: it is left out from now on."""
        machine = self._machine
        member = machine.members.get(message.device)
        if member is None or message.attempt != member.attempt:
            machine.drop(message, "of another attempt")
            return
        self._unfit(member, f"{source}: {message.reason}")

    def _unfit(self, member: Member, reason: str) -> None:
        """A device with which the run cannot go on."""
        member.refusal = reason
        self._machine.log("error", "device-fault", device=member.id, reason=reason)
        self._gone(member, reason)

    def _gone(self, member: Member, why: str) -> None:
        """A device cannot go on now: it is left out of the open round, and not waited for before the first."""
        machine = self._machine
        if member.place is Place.ADMITTED:
            self.discard(member, why)
        elif member.place is Place.WAITING:
            machine.log("warning", "left-out", device=member.id, round=machine.round, reason=why)
            member.place = Place.OUT
            self.after_loss()
        if not member.joined and machine.state is S.JOINING and not member.refusal:
            member.refusal = why
            machine.gathering.maybe_complete()

    def _came_back(self, member: Member, boot: str) -> None:
        """A new process of a known id: its former attempt is void; it joins again by the plan."""
        machine = self._machine
        assert machine.plan is not None
        if member.place in (Place.ADMITTED, Place.WAITING):
            self._gone(member, "was replaced by another process")
        if machine.channel is not None:
            machine.channel.forget(member.id)
        member.boot = boot
        member.joined, member.present, member.refusal, member.cleared, member.held = False, False, "", True, -1
        machine.plan = machine.plan.with_boot(member.id, boot)
        machine.set_peers()
        machine.status_publisher.publish_plan()

    # Clearing up

    def discard(self, member: Member, why: str) -> None:
        """Leave a device out of the open round: everyone forgets its attempt, then its place is free."""
        machine = self._machine
        machine.log("warning", "left-out", device=member.id, round=machine.round, reason=why)
        member.place = Place.DISCARDING
        member.discarded_at = machine.now
        member.update = None
        member.held = -1
        presence = machine.census.get("dev", member.id)
        there = presence is not None and presence.online and presence.boot == member.boot
        chain = machine.chain(member.id) if machine.state is S.OPEN else []
        member.unclear = set(chain)
        member.cleared = False
        message = Discard(machine.round, member.id, member.attempt)
        if machine.channel is not None and not there:
            machine.channel.forget(member.id)
        for address in [*chain, member.id]:
            machine.send(address, message)
        self._maybe_clear(member)

    def discarded(self, source: str, message: Discarded) -> None:
        """A seat, or the device itself, has forgotten an attempt."""
        machine = self._machine
        member = machine.members.get(message.device)
        if member is None or message.attempt != member.attempt:
            return
        if source == member.id:
            member.cleared = True
        seat = machine.seat_of(source)
        if seat is not None:
            member.unclear.discard(seat.address)
            self._maybe_clear(member)

    def _maybe_clear(self, member: Member) -> None:
        if member.place is Place.DISCARDING and not member.unclear:
            member.place = Place.OUT
            self.after_loss()

    def after_loss(self) -> None:
        """Someone is out: fail below the quorum, else give its place away."""
        machine, book = self._machine, self._machine.book
        if book is None or machine.state not in (S.OPEN, S.EVALUATING):
            return
        if machine.state is S.OPEN and book.possible < machine.job.quorum:
            out = [
                f"{m.id} ({m.refusal})" if m.refusal else m.id
                for m in machine.members.values()
                if m.place in (Place.OUT, Place.DISCARDING)
            ]
            machine.fail(
                f"round {machine.round}: {book.possible} devices are left, quorum is {machine.job.quorum}; "
                f"left out: {', '.join(out)}"
            )
            return
        machine.admission.admit_more()
