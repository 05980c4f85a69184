"""Departures: a lost or silent node loses its seat; a lost, silent or stuck device is left out of the round."""

from mpsl.job import FleetSection
from mpsl.link.channel import Unanswered
from mpsl.machines.census import Presence
from mpsl.machines.members import MAX_TRIES, Member, Place
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.patience import Patience
from mpsl.machines.orchestrator.unanswered import UnansweredLinks
from mpsl.machines.tables.run import OrchestratorState
from mpsl.messages import CopyFailed, Discard, Discarded, Fault
from mpsl.plan import Seat
from mpsl.topics import Address

STALL_S = FleetSection.stall_s
"""Unless the job says otherwise: how long a phase waits for seats while none of them sends anything new."""
FIRST_PATIENCE_S = 300.0
"""How long a device may make no progress while no device has finished a batch yet."""
MIN_PATIENCE_S = 90.0
PATIENCE_BATCHES = 20.0
"""Afterwards: the larger of MIN_PATIENCE_S and this multiple of the longest batch so far."""


class Departures:
    """Watches all participants of the plan, and cleans up after a device that is left out."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._state = context.state
        self._patience = Patience(context)
        self._unanswered = UnansweredLinks(context)
        self._stall_s = context.state.job.fleet.stall_s
        self._slowest_batch = 0.0
        self._present_nodes: set[tuple[int, str]] = set()
        """Nodes whose `info` has reported this run, by term: sessions of earlier terms do not count."""

    # Noticing

    def seen(self, presence: Presence) -> None:
        """A participant's status, info or telemetry has changed."""
        if self._state.plan is None or not presence.status:
            return
        if presence.branch == "node":
            seat = self._state.seat_of(presence.id)
            if seat is not None:
                self._seen_node(presence, seat)
        elif (member := self._state.members.get(presence.id)) is not None:
            self._seen_device(presence, member)

    def _seen_device(self, presence: Presence, member: Member) -> None:
        if presence.boot != member.boot:
            if presence.online and presence.info.get("boot") == presence.boot:
                self._came_back(member, presence.boot)
        elif not presence.online:
            if presence.gone(self._context.now):
                self._gone(member, f"is {presence.status.get('state')}")
        elif self._has_left(presence, member.present):
            member.joined = member.present = False
            self._gone(member, "is no longer in the run")
            # It left by itself while one side had no connection, so it may join again.
            if self._context.session is not None:
                self._context.session.channel.forget(member.id)
            member.held = -1
            self._context.publish_plan()
        else:
            member.present = member.present or self._is_present(presence)
            self._note_progress(member, presence)

    def _seen_node(self, presence: Presence, seat: Seat) -> None:
        why = ""
        if presence.boot != seat.boot:
            # The new process takes the seat once it is available.
            why = "replaced by another process" if presence.free(self._context.now, self._state.run) else ""
        elif not presence.online:
            why = self._node_gone(presence)
        elif self._has_left(presence, (self._state.term, seat.node) in self._present_nodes):
            why = "no longer in the run"
        elif self._is_present(presence):
            self._present_nodes.add((self._state.term, seat.node))
        if why:
            self._context.lose_seat(seat.node, f"node {seat.node} (seat {seat.address}) is {why}")

    def _node_gone(self, presence: Presence) -> str:
        """Return why the run stops waiting for an offline node, or "". A possible standby shortens the wait."""
        now, state = self._context.now, str(presence.status.get("state"))
        if presence.gone(now):
            return state
        is_overdue = presence.lost_at is not None and now - presence.lost_at >= self._state.job.fleet.standby_after_s
        return state if is_overdue and self._has_standby() else ""

    def _has_standby(self) -> bool:
        seated = {seat.node for seat in self._state.seats.values()}
        return any(node.id not in seated for node in self._context.census.free("node", self._context.now))

    def _is_present(self, presence: Presence) -> bool:
        """Whether its `info` says that it is in this run."""
        return presence.info.get("boot") == presence.boot and self._state.run in presence.runs

    def _has_left(self, presence: Presence, was_present: bool) -> bool:
        """Whether it has left by itself, which happens while one side has no connection."""
        return was_present and presence.info.get("boot") == presence.boot and not self._is_present(presence)

    def _note_progress(self, member: Member, presence: Presence) -> None:
        told = presence.telemetry
        batch, received = told.get("batch"), told.get("received")
        if not isinstance(batch, int) or not isinstance(received, int):
            return
        progress = (batch, str(told.get("state")), received)
        if progress == member.progress:
            return
        now, steps = self._context.now, batch - member.progress[0]
        if steps > 0 and member.progress[1] == "training":
            self._slowest_batch = max(self._slowest_batch, (now - member.batch_at) / steps)
        if progress[:2] != member.progress[:2]:
            member.batch_at = now
        member.progress = progress
        member.progress_at = now

    def watch(self, phase: OrchestratorState, waiting_for: list[str], awaited: set[Address]) -> None:
        """Check the deadlines of all who are waited for; `awaited`: the seats without which the phase cannot end."""
        for seat in self._state.seats.values():
            presence = self._context.census.get("node", seat.node)
            if presence is None:
                continue
            self._seen_node(presence, seat)
            if presence.boot == seat.boot and self._patience.is_silent(presence, seat.address):
                why = f"node {seat.node} (seat {seat.address}) {_silence(presence)}"
                self._context.lose_seat(seat.node, why)
        links = self._unanswered.found()
        if too_large := self._unanswered.too_large(links, self._stall_s):
            self._context.fail(too_large)
            return
        for member in list(self._state.members.values()):
            self._watch_device(member, links)
        if awaited:
            self._watch_stall(phase, waiting_for, sorted(awaited), links)

    def _watch_device(self, member: Member, links: list[tuple[str, Unanswered]]) -> None:
        seen = self._slowest_batch
        patience = max(MIN_PATIENCE_S, PATIENCE_BATCHES * seen) if seen else FIRST_PATIENCE_S
        own = [(source, link) for source, link in links if member.id in (source, link.to)]
        if any(link.seconds >= MIN_PATIENCE_S for _, link in own):
            patience = MIN_PATIENCE_S
        progress_at = self._patience.progress_at(member)
        presence = self._context.census.get("dev", member.id)
        if presence is not None and self._patience.is_silent(presence, member.id):
            self._gone(member, _silence(presence))
        elif member.place is Place.ADMITTED and self._patience.is_over(progress_at, patience, member.id):
            member.tries = MAX_TRIES
            self.discard(member, f"made no progress for {patience:.0f} s{self._unanswered.explained(own or links)}")
        elif member.place is Place.DISCARDING:
            addresses = sorted(member.pending_discards)
            if not self._patience.is_over(member.discarded_at, self._stall_s, *addresses):
                return
            for address in addresses:
                node = self._state.node_at(address)
                why = f"node {node} (seat {address}) has not forgotten {member.id}, left out {self._stall_s:.0f} s ago"
                self._context.lose_seat(node, why, unfit=True)

    def _watch_stall(
        self,
        phase: OrchestratorState,
        waiting_for: list[str],
        waiting: list[Address],
        links: list[tuple[str, Unanswered]],
    ) -> None:
        if not self._patience.is_over(self._state.progress_at, self._stall_s, *waiting):
            return
        if self._state.committed or self._has_standby():
            for address in waiting:
                node = self._state.node_at(address)
                why = f"node {node} (seat {address}) has sent nothing new for {self._stall_s:.0f} s while {phase.value}"
                self._context.lose_seat(node, why, unfit=True)
            return
        topics = ", ".join(self._context.topics.binary(self._state.run, address, "+", "orch") for address in waiting)
        unexplained = (
            f". Either the broker's access rules keep them from reading {topics}, or publishes of this size vanish "
            f"({self._context.chunk_bytes:,} bytes): change the broker's rules or its size limit, or set a smaller "
            "chunk_bytes under [wire] in the job"
        )
        self._context.fail(
            f"{phase.value}: nothing new for {self._stall_s:.0f} s; waiting for: {', '.join(waiting_for)}"
            + (self._unanswered.explained(links) or unexplained)
        )

    # Reported faults

    def fault(self, source: str, message: Fault) -> None:
        """A participant reports a failed job: a device is left out for good, a node loses its seat."""
        member = self._state.members.get(source)
        if member is None:
            self._context.lose_seat(source, f"node {source}: {message.reason}", unfit=True)
            return
        self.unfit(member, message.reason)

    def copy_failed(self, source: str, message: CopyFailed) -> None:
        """A seat cannot compute with a device's tensors or copy: leave the device out for good."""
        member = self._state.members.get(message.device)
        if member is None or message.attempt != member.attempt:
            self._context.drop(message, "of another attempt")
            return
        self.unfit(member, f"{source}: {message.reason}")

    def unfit(self, member: Member, reason: str) -> None:
        """Leave a device out for the rest of the run."""
        member.refusal, member.unfit = reason, True
        self._context.log("error", "device-fault", device=member.id, reason=reason)
        self._gone(member, reason)

    def _gone(self, member: Member, why: str) -> None:
        """Leave a device out of the open round. Before the first round, stop waiting for it."""
        ledger = self._state.ledger
        if ledger is not None and member.place is Place.ADMITTED:
            self.discard(member, why)
        elif ledger is not None and member.place is Place.WAITING:
            self._context.log("warning", "left-out", device=member.id, round=self._state.round, reason=why)
            ledger.leave_out(member, Place.OUT, self._context.now, why)
        elif ledger is None and not member.joined and not member.refusal and self._state.term == 1:
            member.refusal = why

    def _came_back(self, member: Member, boot: str) -> None:
        """A device is back as a new process: void its attempt and put its boot into the plan; it joins again."""
        if member.place in (Place.ADMITTED, Place.WAITING):
            self._gone(member, "was replaced by another process")
            member.returned_at = self._context.now
        if self._context.session is not None:
            self._context.session.channel.forget(member.id)
        member.boot = boot
        member.joined, member.present, member.refusal, member.held = False, False, "", -1
        member.whole = False
        member.unfit = False
        member.discard_acked = True
        self._state.plan = self._state.need_plan().with_boot(member.id, boot)
        member.revision = self._state.plan.revision
        self._context.replan()
        self._context.publish_plan()

    # Cleaning up

    def discard(self, member: Member, why: str) -> None:
        """Leave a device out of the open round. Its place is free once every seat has forgotten the attempt."""
        state, context = self._state, self._context
        context.log("warning", "left-out", device=member.id, round=state.round, reason=why)
        state.need_ledger().leave_out(member, Place.DISCARDING, context.now, why)
        member.discarded_at = context.now
        member.update = None
        member.held = -1
        presence = context.census.get("dev", member.id)
        there = presence is not None and presence.online and presence.boot == member.boot
        chain = state.chain(member.id) if state.need_ledger().training else []
        member.pending_discards = set(chain)
        member.discard_acked = False
        message = Discard(state.round, member.id, member.attempt)
        if context.session is not None and not there:
            context.session.channel.forget(member.id)
        for address in [*chain, member.id]:
            context.send(address, message)
        self._maybe_clear(member)

    def discarded(self, source: str, message: Discarded) -> None:
        """A seat, or the device itself, has forgotten an attempt."""
        member = self._state.members.get(message.device)
        if member is None or message.attempt != member.attempt:
            return
        if source == member.id:
            member.discard_acked = True
        seat = self._state.seat_of(source)
        if seat is not None:
            member.pending_discards.discard(seat.address)
            self._maybe_clear(member)

    def _maybe_clear(self, member: Member) -> None:
        if member.place is Place.DISCARDING and not member.pending_discards:
            self._state.need_ledger().move(member, Place.OUT)


def _silence(presence: Presence) -> str:
    return "has been silent for too long" if presence.online else f"is {presence.status.get('state')}"
