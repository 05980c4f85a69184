"""Admissions: G devices at a time are in their round, or in an evaluation, which goes through the same seats.

Gives away places and G; who contributes is decided elsewhere.
"""

from mpsl.batches import batches_per_epoch
from mpsl.machines.census import Presence
from mpsl.machines.jobs import Exported
from mpsl.machines.members import MAX_TRIES, Member, Place, RoundLedger
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.pace import Pace, SeatProgress
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.savepoint import Savepoint
from mpsl.messages import Admit, Evaluate

REJOIN_S = 10.0
"""How long a round that could end waits for a device that has come back as a new process to join again."""


class Admissions:
    """The places of the open ledger; `training` tells a round from an evaluation."""

    def __init__(self, context: RunContext, exports: PartExports) -> None:
        self._context = context
        self._state = context.state
        self._exports = exports
        self._device_slices: Exported | None = None
        self._frozen_slices: Exported | None = None
        self._pace: Pace | None = None
        self._paced_term = 0
        """The term whose plan bounds the pace."""
        self._training = True

    def ready(self) -> list[str]:
        """Devices that can take part now."""
        return [member.id for member in self._state.members.values() if self._is_ready(member)]

    def _is_ready(self, member: Member) -> bool:
        presence = self._context.census.get("dev", member.id)
        there = presence is not None and not presence.gone(self._context.now) and presence.boot == member.boot
        known = all(self._state.seat_revisions.get(a, 0) >= member.revision for a in self._state.chain(member.id))
        return there and known and member.joined and member.discard_acked and not member.refusal

    def readmit(self) -> None:
        """Who was left out of the open round, or was not there at its start, and is ready now takes part."""
        state, ledger = self._state, self._state.ledger
        if ledger is None:
            return
        for member in ledger.at(Place.OUT):
            presence = self._context.census.get("dev", member.id)
            is_online = presence is not None and presence.online
            if is_online and member.tries < MAX_TRIES and self._is_ready(member) and ledger.readmit(member):
                self._context.log("info", "readmitted", device=member.id, round=state.round)

    def returning(self) -> list[str]:
        """Devices that were in the open round, have come back as new processes, and are about to join again."""
        ledger = self._state.ledger
        if ledger is None or not self._training:
            return []
        return [member.id for member in ledger.at(Place.OUT) if self._is_returning(member) and ledger.has_turn(member)]

    def _is_returning(self, member: Member) -> bool:
        if member.returned_at is None or member.refusal or member.tries >= MAX_TRIES:
            return False
        presence = self._context.census.get("dev", member.id)
        is_online = presence is not None and presence.online and presence.boot == member.boot
        return is_online and self._context.now - member.returned_at < REJOIN_S

    def batches_of(self, member: Member) -> int:
        """How many optimizer steps a round has for a device, all local epochs together."""
        run = self._state.job.run
        return batches_per_epoch(member.samples, run.batch_size) * run.local_epochs

    def open_round(self, ready: list[str]) -> None:
        """Open a training round to these devices."""
        plan = self._state.need_plan()
        if self._pace is None or self._paced_term != plan.term:
            # The budgets of other nodes, or other parts, set other bounds.
            self._pace, self._paced_term = Pace(plan.admit, plan.admit_most), plan.term
        self._pace.interrupted()
        self._open(ready, self._pace.admit, self._state.round - 1, training=True)

    def open_evaluation(self, ready: list[str]) -> None:
        """Open an evaluation of the committed model to these devices."""
        self._open(ready, self._state.need_plan().admit, self._state.round, training=False)

    def _open(self, ready: list[str], admit: int, version: int, training: bool) -> None:
        state = self._state
        state.ledger = RoundLedger(
            state.round,
            admit,
            state.members,
            state.need_plan(),
            self._context.now,
            state.job.run.deterministic,
            training,
        )
        state.ledger.open_to(ready)
        if training and (savepoint := state.savepoint_of(state.round)) is not None:
            self._restore(state.ledger, savepoint)
        self._training = training
        self._device_slices, self._frozen_slices = None, None
        if state.has_frozen:
            self._exports.ask_for_frozen_device_parts(self._keep_frozen)
        self._exports.ask_for_device_parts(version, self._keep)

    def _restore(self, ledger: RoundLedger, savepoint: Savepoint) -> None:
        """The round goes on where the savepoint was taken."""
        ledger.opened_at = self._context.now - savepoint.elapsed_s
        updates = savepoint.contributions
        for id, samples in savepoint.accepted.items():
            ledger.restore(id, samples, savepoint.terms[id], updates[id], savepoint.passage(id))
        self._context.log("info", "round-restored", round=ledger.round, number=savepoint.number)

    def _keep(self, exported: Exported) -> None:
        """Keep the slices of the committed first and last parts, once a version; then admission begins."""
        self._device_slices = exported
        self.admit_more()

    def _keep_frozen(self, exported: Exported) -> None:
        """Keep the slices of the devices' frozen parameters, which come before the others."""
        self._frozen_slices = exported

    @property
    def has_begun(self) -> bool:
        """Whether the weights that admitted devices need are at hand."""
        return self._device_slices is not None

    def admit_more(self) -> None:
        """Give away the free places."""
        ledger = self._state.ledger
        if ledger is None or self._device_slices is None:
            return
        while (member := ledger.next_admission()) is not None:
            ledger.admit(member, self._context.now)
            member.attempt += 1
            member.progress = (0, "", 0)
            member.progress_at = member.batch_at = self._context.now
            self._call(member, ledger, self._device_slices)

    def _call(self, member: Member, ledger: RoundLedger, slices: Exported) -> None:
        context, training = self._context, self._training
        version = ledger.round - 1 if training else ledger.round
        if training:
            admit = Admit(ledger.round, member.id, member.boot, member.attempt, self.batches_of(member))
            for address in self._state.chain(member.id):
                context.send(address, admit)
            context.send(member.id, admit)
        else:
            context.send(member.id, Evaluate(ledger.round, member.attempt))
        if self._frozen_slices is not None and not member.whole:
            context.send_slices(member.id, self._frozen_slices)
        if member.held != version:
            member.held = version
            context.send_slices(member.id, slices)
        if training:
            member.held = -1  # training changes them

    def waiting_for(self) -> list[str]:
        """Whom the ledger waits for: its admitted devices, and the seats that have yet to forget one."""
        state, ledger = self._state, self._state.ledger
        if ledger is None:
            return []
        pending = {state.node_at(a) for member in ledger.at(Place.DISCARDING) for a in member.pending_discards}
        return [member.id for member in ledger.at(Place.ADMITTED)] + sorted(pending)

    def seen(self, presence: Presence) -> None:
        """A node's telemetry: one more device may be in where the busiest seat idles though all places are taken."""
        state, ledger, seat = self._state, self._state.ledger, self._state.seat_of(presence.id)
        if presence.branch != "node" or seat is None or ledger is None or self._pace is None:
            return
        serving = {address for id in state.members for address in state.chain(id)}
        if seat.address not in serving:
            return
        full = ledger.count(Place.ADMITTED) >= ledger.most
        if not self._training or not ledger.count(Place.WAITING) or not full:
            self._pace.interrupted()
            return
        said = presence.telemetry
        try:
            reading = SeatProgress(float(said["uptime_s"]), float(said["busy_s"]), int(said["steps"]))
        except (KeyError, TypeError, ValueError, OverflowError):
            return
        if self._pace.seen(seat.address, reading, len(serving), ledger.plan.places(seat.address, self._pace.admit)):
            ledger.most = self._pace.admit
            self._context.log("info", "admitting-more", round=state.round, admit=ledger.most)
            self.admit_more()
