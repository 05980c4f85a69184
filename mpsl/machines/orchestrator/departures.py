"""Those who go: a lost or silent node ends the run, a lost, silent or stuck device is left out of the round."""

from typing import TYPE_CHECKING

from mpsl.machines.census import Presence
from mpsl.machines.members import Member, Place
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.messages import Discard, Discarded, Fault

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

STALL_S = 90.0
"""How long a step that waits for seats may go without hearing anything from any of them."""
LEAST_PATIENCE_S = 90.0
PATIENCE = 20.0
"""A device's deadline for its next batch, in the longest batch that was seen."""


class Departures:
    """Watches over everyone of the plan, and clears up after a device that is left out."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._slowest_batch = 0.0

    # Noticing

    def seen(self, presence: Presence) -> None:
        """Someone's status, info or telemetry has changed."""
        machine = self._machine
        if machine.state is S.ENDING or machine.plan is None:
            return
        if presence.branch == "node":
            seat = machine.plan.seat_of(presence.id)
            if seat is not None and (not presence.online or presence.boot != seat.boot):
                same = presence.boot == seat.boot
                state = presence.status.get("state") if same else "replaced by another process"
                machine.fail(f"node {presence.id} (seat {seat.address}) is {state}")
            return
        member = machine.members.get(presence.id)
        if member is None or not presence.status:
            return
        if presence.boot != member.boot:
            if presence.online and presence.info.get("boot") == presence.boot:
                self._came_back(member, presence.boot)
        elif not presence.online:
            self._gone(member, str(presence.status.get("state")))
        else:
            self._note_progress(member, presence)

    def _note_progress(self, member: Member, presence: Presence) -> None:
        batch, state = presence.telemetry.get("batch"), presence.telemetry.get("state")
        if not isinstance(batch, int) or (batch, state) == member.progress:
            return
        steps = batch - member.progress[0]
        if steps > 0 and member.progress[1] == "training":
            seconds = self._machine.now - member.progress_at
            self._slowest_batch = max(self._slowest_batch, seconds / steps)
        member.progress = (batch, str(state))
        member.progress_at = self._machine.now

    def watch(self) -> None:
        """Deadlines of everyone who is waited for."""
        machine, now = self._machine, self._machine.now
        for seat in machine.seats.values():
            presence = machine.census.get("node", seat.node)
            if presence is not None and not presence.alive(now):
                machine.fail(f"node {seat.node} (seat {seat.address}) has said nothing for too long")
                return
        patience = max(LEAST_PATIENCE_S, PATIENCE * self._slowest_batch)
        for member in list(machine.members.values()):
            presence = machine.census.get("dev", member.id)
            if presence is not None and not presence.alive(now):
                self._gone(member, "silent")
            elif member.place is Place.ADMITTED and now - member.progress_at > patience:
                self.discard(member, f"made no progress for {patience:.0f} s")
        if machine.state in (S.LOADING, S.CLOSING, S.COMMITTING) and now - machine.heard_at > STALL_S:
            waiting = ", ".join(machine.waiting_for())
            machine.fail(f"{machine.state.value}: nothing heard for {STALL_S:.0f} s; waiting for: {waiting}")

    def fault(self, source: str, message: Fault) -> None:
        """A job failed there: a device is left out from now on, without a node the run cannot go on."""
        member = self._machine.members.get(source)
        if member is None:
            self._machine.fail(f"node {source}: {message.reason}")
            return
        member.refusal = message.reason
        self._machine.log("error", "device-fault", device=source, reason=message.reason)
        if member.place is Place.ADMITTED:
            self.discard(member, message.reason)

    def _gone(self, member: Member, why: str) -> None:
        machine = self._machine
        if member.place is Place.ADMITTED:
            self.discard(member, f"is {why}")
        elif member.place is Place.WAITING:
            machine.log("warning", "left-out", device=member.id, reason=f"is {why}")
            member.place = Place.OUT
            self.after_loss()
        elif member.place is Place.DISCARDING:
            member.unclear.discard(member.id)
            self._maybe_clear(member)
        if not member.joined and machine.state is S.JOINING and not member.refusal:
            member.refusal = f"is {why}"
            machine.gathering.maybe_complete()

    def _came_back(self, member: Member, boot: str) -> None:
        """A new process of a known id: its former attempt is void; it joins again by the plan."""
        machine = self._machine
        assert machine.plan is not None
        self._gone(member, "replaced by another process")
        if machine.channel is not None:
            machine.channel.forget(member.id)
        member.boot = boot
        member.joined, member.refusal, member.cleared, member.held = False, "", True, -1
        machine.plan = machine.plan.with_boot(member.id, boot)
        machine.know()
        machine.standing.publish_plan()

    # Clearing up

    def discard(self, member: Member, why: str) -> None:
        """Leave a device out of the open round: everyone forgets its attempt, then its place is free."""
        machine = self._machine
        machine.log("warning", "left-out", device=member.id, round=machine.round, reason=why)
        member.place = Place.DISCARDING
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
            out = [m.id for m in machine.members.values() if m.place in (Place.OUT, Place.DISCARDING)]
            machine.fail(
                f"round {machine.round}: {book.possible} devices are left, quorum is {machine.job.quorum}; "
                f"left out: {', '.join(out)}"
            )
            return
        machine.admission.admit_more()
