"""Reseating: after the loss of a node, finds a seating for a new term, which goes on from the last committed round.

The same node may come back, a standby may take its seat, or, if the job has no cuts, the chain is re-cut over the nodes
that are left. Otherwise the run waits, and reports for whom.
"""

from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.growth import Growth
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.recut import Recut
from mpsl.machines.orchestrator.savepoints import Savepoints
from mpsl.machines.orchestrator_jobs import FindPlan, PlanFound
from mpsl.machines.seating import Seating, seat_everyone
from mpsl.machines.tables.run import RunOutcome
from mpsl.machines.vacancies import fill, seating_of, shorter
from mpsl.plan import Seat

RETURN_S = 5.0
"""How long a node has to come back before the chain is re-cut without it."""


class Reseating(Phase):
    """Lasts from the loss of a seat until all seats can be filled again."""

    def __init__(self, context: RunContext, durability: Durability, savepoints: Savepoints, growth: Growth) -> None:
        super().__init__(context)
        self._growth = growth
        self._durability = durability
        self._savepoints = savepoints
        self._recut = Recut(context)
        self._lost: dict[str, str] = {}
        """Nodes that have lost their seats, and why."""
        self._vacant: dict[Seat, int] = {}
        self._began = 0.0
        self._refusal = ""
        """Why the present nodes cannot be seated."""

    def enter(self) -> None:
        """End the term: forget the open round, and look for nodes."""
        state, context = self.state, self.context
        self._lost, state.lost_nodes = dict(state.lost_nodes), {}
        if self._lost:
            state.term_reason = "; ".join(self._lost.values())
        self._vacant, self._refusal, self._began = {}, "", context.now
        for node, why in self._lost.items():
            context.log("warning", "seat-lost", node=node, reason=why, round=state.round, committed=state.committed)
        context.end_session()
        self._durability.interrupted()
        self._savepoints.interrupted()
        self._growth.reset()
        state.faults += 1
        state.round, state.ledger, state.folding, state.waiting_seats = state.committed, None, 0, set()
        for timer in ("start", "round", "report", "quorum"):
            context.cancel_timer(timer)
        # The time counts from the first loss, so that a node that fails repeatedly cannot hold up the run for ever.
        if state.held_up_since is None:
            state.held_up_since = context.now
        context.set_timer("patience", max(0.0, state.held_up_since + state.job.fleet.patience_s - context.now))
        self._recut.reset()
        self._look()

    def seen(self, presence: Presence) -> None:
        """Look again, because a node may be available."""
        if presence.branch == "node":
            self._look()

    def watch(self) -> None:
        """Time has passed."""
        self._look()

    def outcome(self) -> RunOutcome | None:
        """Everyone can be seated, and what was whole of the round before is on disk."""
        is_busy = self._durability.is_busy or self._savepoints.is_busy
        return RunOutcome.SEATED if self.state.seating is not None and not is_busy else None

    def waiting_for(self) -> list[str]:
        """Return the missing nodes, with their seats and the bytes that these need."""
        if self._recut.planning:
            return ["a plan for the nodes that are left"]
        if self.state.seating is not None:
            return ["the disk"]
        if self._refusal:
            return [f"nodes with a larger --memory-budget ({self._refusal})"]
        return [f"{seat.node} or a standby for seat {seat.address} ({needed:,} bytes)" for seat, needed in
                self._vacant.items()]  # fmt: skip

    def timer_fired(self, name: str) -> None:
        """patience_s is over."""
        if name == "patience":
            why, limit = self.state.term_reason, self.state.job.fleet.patience_s
            missing = ", ".join(self.waiting_for())
            self.context.fail(f"{why}; the run could not go on within patience_s = {limit:g} s; waiting for: {missing}")

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The search for a new chain has ended."""
        if isinstance(job, FindPlan) and isinstance(result, PlanFound):
            self._recut.found(job, result.choice)
            self._look()

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """There is no plan from measured times, so the model is cut evenly."""
        if isinstance(job, FindPlan):
            self._recut.failed(job, reason)
            self._look()
            return True
        return super().job_failed(job, reason)

    def _look(self) -> None:
        """Fill all seats, if that is possible now."""
        state, plan = self.state, self.state.need_plan()
        if state.seating is not None or self._recut.planning or not self.context.is_plan_known:
            return
        free = [node for node in self.context.census.free("node", self.context.now) if self._is_fit(node)]
        filled = fill(plan, state.need_model(), free)
        self._vacant = filled.vacant
        if not filled.vacant:
            self._seat(plan.job, seating_of(plan, filled, self._devices(), state.boot))
            return
        waited = self.context.now - self._began
        if waited >= RETURN_S and (job := shorter(state.job, len(free))) is not None:
            seating = self._recut.seating(job, free, list(self._devices().values()))
            if seating is not None:
                self._seat(*seating)

    def _seat(self, job: Job, seating: Seating) -> None:
        plan = seat_everyone(job, self.state.need_model(), seating)
        if isinstance(plan, str):
            if plan != self._refusal:
                self.context.log("warning", "not-seated", reason=plan)
            self._refusal = plan
            return
        self.state.seating = (job, seating)

    def _is_fit(self, node: Presence) -> bool:
        return self.state.unfit_nodes.get(node.id) != node.boot

    def _devices(self) -> dict[str, Presence]:
        """Return all devices of the plan. An absent one keeps its last boot."""
        found = {}
        for id, entry in self.state.need_plan().devices.items():
            presence = self.context.census.get("dev", id)
            found[id] = presence or Presence("dev", id, status={"boot": entry.boot})
        return found
