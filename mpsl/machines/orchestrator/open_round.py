"""The open round: receives the updates of admitted devices and accepts those that agree with every hop's count."""

from math import inf

from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.members import MAX_TRIES, Member, Place
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.departures import Departures
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.outliers import MAX_LOSS
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.savepoints import Savepoints
from mpsl.machines.orchestrator_jobs import CheckUpdate, FoldUpdate
from mpsl.machines.tables.run import RunOutcome
from mpsl.messages import Accept, Finished, Message, Slice, Update
from mpsl.topics import Address


class OpenRound(Phase):
    """Lasts until every device is accepted or out."""

    def __init__(
        self,
        context: RunContext,
        admissions: Admissions,
        departures: Departures,
        durability: Durability,
        savepoints: Savepoints,
    ) -> None:
        super().__init__(context)
        self._durability = durability
        self._savepoints = savepoints
        self._admissions = admissions
        self._departures = departures
        self._began = False
        self._late = False
        """Whether round_timeout_s is over, so that no device is admitted any more."""
        self._is_waiting = False
        """Whether the quorum depends on absent devices."""
        self._is_over = False
        """Whether patience_s is over while the quorum is missing."""

    def enter(self) -> None:
        """Open the next round, if enough devices are left."""
        self._began = self._late = self._is_waiting = self._is_over = False
        self.state.ledger = None
        for member in self.state.members.values():
            member.place, member.tries = Place.OUT, 0
        self._begin()

    def _begin(self) -> None:
        """Open the round once the quorum is present. Absent devices may come back within patience_s."""
        state, context = self.state, self.context
        ready, quorum, number = self._admissions.ready(), state.job.quorum, state.round + 1
        savepoint = state.savepoint_of(number)
        there = {*ready, *(savepoint.accepted if savepoint is not None else ())}
        if len(there) < quorum:
            if self._lacking():
                missing = [state.members[id] for id in sorted(set(state.members) - there)]
                context.fail(self._too_few(number, len(there), "missing", missing))
            return
        self._enough()
        self._began = True
        state.round = number
        self._admissions.open_round(ready)
        if state.job.fleet.round_timeout_s is not None:
            context.set_timer("round", state.job.fleet.round_timeout_s)
        context.log("info", "round-opened", round=number, devices=len(ready))

    def _too_few(self, round: int, left: int, what: str, gone: list[Member]) -> str:
        """Why the run cannot go on: who is gone and why, and which losses of the last committed round stand out."""
        reasons: dict[str, list[str]] = {}
        for member in gone:
            reasons.setdefault(member.refusal or member.left_out, []).append(member.id)
        named = ", ".join(", ".join(ids) + (f" ({reason})" if reason else "") for reason, ids in reasons.items())
        have = "1 device is" if left == 1 else f"{left} devices are"
        return f"round {round}: {have} left, quorum is {self.state.job.quorum}; {what}: {named}{self.state.suspects}"

    def _reachable(self) -> int:
        """How many are accepted, may be, or may come back."""
        members = self.state.members.values()
        savepoint = self.state.savepoint_of(self.state.committed + 1)
        accepted = {m.id for m in members if m.place is Place.ACCEPTED} | set(savepoint.accepted if savepoint else ())
        return sum(m.id in accepted or (not m.refusal and m.tries < MAX_TRIES) for m in members)

    def _lacking(self) -> bool:
        """Whether the round cannot reach its quorum: no other device may come, or none came within patience_s."""
        if self._late or self._is_over or self._reachable() < self.state.job.quorum:
            return True
        if not self._is_waiting:
            self._is_waiting = True
            self.context.set_timer("quorum", self.state.job.fleet.patience_s)
        return False

    def _enough(self) -> None:
        """The quorum can be reached."""
        if self._is_waiting:
            self._is_waiting = False
            self.context.cancel_timer("quorum")

    def take(self, source: str, message: Message) -> None:
        """Take a slice of an update, its end, or a seat's report that a device's steps are done."""
        match message:
            case Slice():
                member = self._admitted(source, message)
                if member is not None and self.context.session is not None:
                    member.arrivals.add(message)
                    member.progress_at = self.context.now
                    self.context.session.write(source, message)
                    self._consider(member)
            case Update():
                member = self._admitted(source, message)
                if member is not None:
                    member.update = message
                    self._consider(member)
            case Finished():
                member, seat = self._admitted(message.device, message), self.state.seat_of(source)
                if member is not None and seat is not None and message.batches == self._admissions.batches_of(member):
                    member.finished.add(seat.address)
                    self._consider(member)
            case _:
                self.context.drop(message, "of another round")

    def _admitted(self, device: str, message: Slice | Update | Finished) -> Member | None:
        """Return the device if it is admitted with the attempt that the message names."""
        member = self.state.members.get(device)
        if member is not None and member.place is Place.ADMITTED and message.attempt == member.attempt:
            return member
        self.context.drop(message, "of another attempt")
        return None

    def _consider(self, member: Member) -> None:
        """Have a complete update checked if it agrees with every hop's count."""
        update, due = member.update, self._admissions.batches_of(member)
        if update is None or member.checking or member.arrivals.bytes != self.state.device_bytes:
            return
        if not 0 <= update.loss < MAX_LOSS * max(1, update.samples):
            said = f"its training loss is not finite, or too large to go on from ({update.loss:g} in all)"
            self._departures.unfit(member, f"{said}: a smaller lr, or scaled samples, may help")
        elif not 0 <= update.seconds < inf:
            self._departures.unfit(member, f"its seconds are not finite or negative ({update.seconds:g})")
        elif update.batches != due or update.samples != member.samples:
            self._departures.discard(member, f"made {update.batches} batches, {due} were due")
        elif member.finished >= set(self.state.chain(member.id)):
            member.checking = True
            self.context.start_job(CheckUpdate(member.id, member.attempt))

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """An update has been checked, or has been folded."""
        match job:
            case CheckUpdate(device, attempt):
                member = self.state.members.get(device)
                if member is not None and member.place is Place.ADMITTED and member.attempt == attempt:
                    member.complete_at = self.context.now
                    member.whole = True
                    self._accept_complete()
            case FoldUpdate():
                self.state.folding -= 1

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """An update is not finite: leave its device out, by name."""
        if not isinstance(job, CheckUpdate):
            return False
        member = self.state.members.get(job.device)
        if member is not None and member.place is Place.ADMITTED and member.attempt == job.attempt:
            self._departures.unfit(member, reason)
        return True

    def _accept_complete(self) -> None:
        """Accept complete updates: as they come, or in roster order if the run is deterministic."""
        ledger = self.state.need_ledger()
        for member in ledger.acceptable():
            self.state.held_up_since = None
            ledger.accept(member, self.context.now)
            assert member.update is not None
            member.last_seconds = member.update.seconds
            ledger.held_s += self.context.now - (member.complete_at or self.context.now)
            ledger.accepted[member.id] = member.samples
            ledger.terms[member.id] = self.state.term
            number, round = len(ledger.accepted), self.state.round
            accept = Accept(round, member.id, member.attempt, number, member.samples, member.update.batches)
            for address in [*self.state.chain(member.id), member.id]:
                self.context.send(address, accept)
            self.state.folding += 1
            self.context.start_job(FoldUpdate(member.id, member.attempt, member.samples))
            self.context.log("info", "accepted", round=round, device=member.id, number=number)
            self._savepoints.accepted()
        self._admissions.admit_more()

    def seen(self, presence: Presence) -> None:
        """A node's telemetry may raise G."""
        self._admissions.seen(presence)

    def timer_fired(self, name: str) -> None:
        """round_timeout_s is over: leave out every device that is not accepted."""
        if name == "quorum" and self._is_waiting:
            self._is_over = True
        if name == "round":
            self._late = True
            ledger, limit = self.state.need_ledger(), self.state.job.fleet.round_timeout_s
            for member in ledger.at(Place.WAITING):
                why = f"was not admitted within round_timeout_s = {limit:g} s"
                ledger.leave_out(member, Place.OUT, self.context.now, why)
            for member in ledger.at(Place.ADMITTED):
                self._departures.discard(member, f"was not done after round_timeout_s = {limit:g} s")

    def watch(self) -> None:
        """Accept complete updates that waited, in a deterministic round, for a device that is now left out."""
        if not self._began:
            self._begin()
        else:
            self._accept_complete()

    def awaited_seats(self) -> set[Address]:
        """Those whose committed part is not here, once only that is waited for."""
        return self._durability.missing if self.state.ledger is not None and self.state.ledger.decided else set()

    def outcome(self) -> RunOutcome | None:
        """Everyone is accepted or out, and the round before is on disk; fails below the quorum."""
        state, ledger = self.state, self.state.ledger
        if not self._began or ledger is None or not self._admissions.has_begun:
            return None
        if not self._late:
            self._admissions.readmit()
        # A device that is being discarded may still reveal a seat that never acknowledges it.
        if ledger.possible + ledger.count(Place.DISCARDING) < state.job.quorum:
            if not self._lacking():
                return None
            out = [m for m in state.members.values() if m.place in (Place.OUT, Place.DISCARDING)]
            self.context.fail(self._too_few(state.round, ledger.possible, "left out", out))
            return RunOutcome.FAILED
        self._enough()
        self._admissions.admit_more()
        if not ledger.decided or (not self._late and self._admissions.returning()):
            return None
        if not self._durability.is_settled:
            return None
        return RunOutcome.ALL_DECIDED

    def waiting_for(self) -> list[str]:
        """Return the admitted devices and the seats with an open discard; below the quorum, the absent devices."""
        if self._is_waiting:
            away = [m.id for m in self.state.members.values() if m.place is Place.OUT and not m.refusal]
            return self._admissions.waiting_for() + away
        return self._admissions.waiting_for() or self._admissions.returning() or self._durability.waiting_for()
