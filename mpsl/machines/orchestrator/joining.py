"""Joining: makes the plan of a new term, publishes it, and waits for the answers of the participants."""

from dataclasses import replace

from mpsl.batches import smallest_micro_batch
from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.members import Member
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.unanswered import UnansweredLinks
from mpsl.machines.orchestrator_jobs import LaidOut, LayOut
from mpsl.machines.seating import seat_everyone
from mpsl.machines.tables.run import RunOutcome
from mpsl.machines.unfinished import Manifest
from mpsl.messages import Joined
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Seat
from mpsl.topics import Address, Branch


class Joining(Phase):
    """Lasts from the plan until all its participants have answered and the model is laid out by its parts."""

    _joined_seats: set[Address]
    _taken_by: dict[str, str]
    """The other run of each device of the plan that is in one."""

    def enter(self) -> None:
        """Seat the fleet under a new term."""
        state, context = self.state, self.context
        self._joined_seats, self._taken_by = set(), {}
        assert state.seating is not None
        job, seating = state.seated = state.seating
        state.seating = None
        plan = seat_everyone(job, state.need_model(), seating)
        if isinstance(plan, str):
            context.fail(plan)
            return
        state.term += 1
        state.plan = plan = replace(plan, term=state.term, round=state.committed)
        state.members = {id: _member(id, entry.boot, state.members.get(id)) for id, entry in plan.devices.items()}
        state.seats = {seat.address: seat for seat in plan.seats}
        state.is_laid_out, state.part_bytes, state.part_digests = False, {}, {}
        state.held_digests, state.seat_revisions = {}, {}
        if plan.term == 1:
            free = context.census.free("dev", context.now)
            state.bystanders = {(each.id, each.boot) for each in free if each.id not in plan.devices}
        context.begin_session()
        seats = [f"{seat.address}:{seat.node}" for seat in plan.seats]
        context.log("info", "seated", cuts=list(plan.cuts), admit=plan.admit, seats=seats)
        by_seat = {seat.address: seat.node for seat in plan.seats}
        term = {"term": plan.term, "round": plan.round, "cuts": list(plan.cuts), "seats": by_seat}
        state.summary["terms"].append(term | {"reason": state.term_reason})
        if plan.shortfall:
            context.log("warning", "short-of-memory", reason=plan.shortfall)
        bystanders = sorted(state.bystanders)
        manifest = Manifest(state.run, plan.term, state.job, plan, state.summary["terms"], bystanders, state.planned)
        if state.savepoint is not None and not state.savepoint.fits(plan):
            context.log("warning", "savepoint-dropped", round=state.savepoint.round, reason="other replicas")
            state.savepoint = None
        context.start_job(LayOut(plan, manifest, state.predicted, state.links, state.savepoint))

    def joined(self, source: str, message: Joined) -> None:
        """A participant of the plan reports whether it can take part."""
        seat = self.state.seat_of(source)
        if seat is not None:
            if message.refusal:
                self._refused(seat, message.refusal)
            self.state.seat_revisions[seat.address] = message.revision
            if message.held:
                self.state.held_digests[seat.address] = message.held
            self._joined_seats.add(seat.address)
            return
        member = self.state.members[source]
        refusal = message.refusal or (member.refusal if member.unfit else "")
        member.joined, member.refusal = not refusal, refusal
        member.samples, member.test_batches = message.samples, message.test_batches
        member.discard_acked = True
        if message.refusal:
            self.context.log("error", "refused", device=source, reason=message.refusal)

    def _refused(self, seat: Seat, refusal: str) -> None:
        """A node refuses its seat: another one may take it, if there is one."""
        why = f"node {seat.node} cannot take seat {seat.address}: {refusal}"
        seated = {other.node for other in self.state.seats.values()}
        spare = [node for node in self.context.census.free("node", self.context.now) if node.id not in seated]
        if self.state.term > 1 or spare:
            self.context.lose_seat(seat.node, why, unfit=True)
        else:
            self.context.fail(why)

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The model is laid out by the plan's parts and the term is on disk, so the plan may be published."""
        if isinstance(result, LaidOut):
            self.context.publish_plan()
            self.state.device_bytes, self.state.has_frozen = result.device_bytes, result.has_frozen
            self.state.is_laid_out = True
            seats = self.state.seats
            self.state.part_bytes = {address: result.part_bytes[seat.stage - 1] for address, seat in seats.items()}
            if result.digests:
                self.state.part_digests = {address: result.digests[seat.stage - 1] for address, seat in seats.items()}

    def seen(self, presence: Presence) -> None:
        """Notice a device of the plan that another run has taken at the same moment."""
        member = self.state.members.get(presence.id) if presence.branch == "dev" else None
        if member is not None and presence.info.get("boot") == member.boot:
            others = [run for run in presence.runs if run != self.state.run]
            if others and not member.joined:
                self._taken_by[member.id] = others[0]
            else:
                self._taken_by.pop(member.id, None)

    def timer_fired(self, name: str) -> None:
        """start_timeout_s is over."""
        fleet, missing = self.state.job.fleet, ", ".join(self.waiting_for()) + self._explained()
        if name == "start":
            limit = fleet.start_timeout_s
            self.context.fail(f"not everyone was there after start_timeout_s = {limit:g} s; waiting for: {missing}")
        elif name == "patience":
            limit = fleet.patience_s
            self.context.fail(f"the run could not go on within patience_s = {limit:g} s; waiting for: {missing}")

    def _explained(self) -> str:
        """Why those who are alive have not answered: perhaps the plan does not reach them, or their answer is lost."""
        state, context = self.state, self.context
        awaited: list[tuple[Branch, str]] = [
            *(("node", seat.node) for address, seat in state.seats.items() if address not in self._joined_seats),
            *(("dev", member.id) for member in state.members.values() if self._is_awaited(member)),
        ]
        known = [context.census.get(branch, id) for branch, id in awaited]
        alive = [presence for presence in known if presence is not None and presence.alive(context.now)]
        unaware = ", ".join(presence.id for presence in alive if state.run not in presence.runs)
        links = UnansweredLinks(context)
        found = links.found()
        told = {source for source, _ in found}
        aware = ", ".join(each.id for each in alive if state.run in each.runs and each.id not in told)
        plan = context.topics.run(state.run, "plan")
        answer = context.topics.binary(state.run, ORCHESTRATOR, "ctl", "+")
        rules = "do the broker's access rules (docs/acl.example) let"
        parts = [
            f"; alive, but without the plan: {unaware}; {rules} orch write and them read {plan}?" if unaware else "",
            f"; have the plan, but no answer has come from: {aware}; {rules} them write and orch read {answer}?"
            if aware
            else "",
        ]
        return "".join(parts) + links.explained(found)

    def waiting_for(self) -> list[str]:
        """Return who has not answered the plan yet. A device in another run is shown with that run's name."""
        nodes = [seat.node for address, seat in self.state.seats.items() if address not in self._joined_seats]
        devices = [m.id for m in self.state.members.values() if self._is_awaited(m)]
        if not nodes and not devices and len(self._joined_members()) < self.state.job.quorum:
            # Under a later term, absent participants may still come back.
            devices = [m.id for m in self.state.members.values() if not m.joined and not m.refusal]
        return nodes + [f"{id} (in {self._taken_by[id]})" if id in self._taken_by else id for id in devices]

    def outcome(self) -> RunOutcome | None:
        """All have answered and the parts are laid out; or another run has a device of the plan."""
        if self._taken_by and self.state.term == 1:
            return self._yield_to_others()
        if not self.state.is_laid_out or len(self._joined_seats) < len(self.state.seats):
            return None
        if any(map(self._is_awaited, self.state.members.values())):
            return None
        members, quorum = self.state.members.values(), self.state.job.quorum
        refusals = [f"{m.id}: {m.refusal}" for m in members if m.refusal]
        if len(members) - len(refusals) < quorum:
            self.context.fail(
                f"{len(refusals)} of {len(members)} devices cannot take part, quorum is {quorum}: {'; '.join(refusals)}"
            )
            return RunOutcome.FAILED
        alone = self._one_value_norm()
        if alone:
            self.context.fail(alone)
            return RunOutcome.FAILED
        if len(self._joined_members()) < quorum:
            return None
        self.context.cancel_timer("start")
        self.context.cancel_timer("patience")
        return RunOutcome.ALL_JOINED

    def _is_awaited(self, member: Member) -> bool:
        """Whether the phase waits for a device's answer. Under a later term it waits only for present devices."""
        if member.joined or member.refusal:
            return False
        if self.state.term == 1:
            return True
        presence = self.context.census.get("dev", member.id)
        there = presence is not None and presence.online and presence.boot == member.boot
        return there and member.id not in self._taken_by

    def _joined_members(self) -> list[Member]:
        return [member for member in self.state.members.values() if member.joined]

    def _yield_to_others(self) -> RunOutcome | None:
        """Resolve a conflict over a device: take another one, or give way to the run whose name sorts first.

        The run whose name sorts first keeps its devices and waits, so two runs never wait for each other.
        """
        free = self.context.census.free("dev", self.context.now)
        others = [presence for presence in free if presence.id not in self.state.members]
        replaceable = self.state.planned is None and len(others) >= len(self._taken_by)
        if not replaceable and min(self._taken_by.values()) > self.state.run:
            return None
        self.context.log("warning", "taken-by-another-run", devices=self._taken_by)
        self.context.end_session()
        # Between two plans nobody belongs to the run, so a process that leaves now is not called back.
        self.state.plan, self.state.members, self.state.seats = None, {}, {}
        if not replaceable:
            self.context.publish("plan", None, retain=True)
        return RunOutcome.MEMBER_TAKEN

    def _one_value_norm(self) -> str:
        """Return the refusal for a BatchNorm that would see one value per channel; "" if there is none."""
        model, run = self.state.need_model(), self.state.job.run
        for member in self.state.members.values():
            if member.samples and model.single_value_norms:
                least = smallest_micro_batch(member.samples, run.batch_size, run.micro_batches)
                if least == 1:
                    return (
                        f"{member.id} has {member.samples} samples: with batch_size = {run.batch_size} and "
                        f"micro_batches = {run.micro_batches} a micro-batch of 1 comes up, and "
                        f"{model.single_value_norms[0]} would see one value per channel; "
                        "choose a batch_size that leaves another remainder"
                    )
        return ""


def _member(id: str, boot: str, before: Member | None) -> Member:
    """Return a device's entry for a new term. It keeps its attempt, its last time and a refusal of this process."""
    if before is None:
        return Member(id, boot)
    unfit = before.unfit and before.boot == boot
    refusal = before.refusal if unfit else ""
    return Member(id, boot, attempt=before.attempt, last_seconds=before.last_seconds, unfit=unfit, refusal=refusal)
