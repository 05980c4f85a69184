"""Growth: nodes that join in the middle of a run without cuts get seats, where that makes its rounds shorter.

A new node is asked for its times first. If the planner then predicts rounds that are at least 5 % shorter, the chain is
cut again at the next boundary of a round. It must never interrupt an open round.
"""

from dataclasses import replace

from mpsl.errors import UsageError
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.planned import log_choice, take
from mpsl.machines.orchestrator_jobs import BetterPlan, FindBetterPlan
from mpsl.machines.seating import Seating
from mpsl.machines.self_profile import command
from mpsl.machines.survey import answer_of, fleet_of, machine_of, profile_of, questions
from mpsl.planning.plan_file import PlannedRun, PlannedSeat

ASK_AGAIN_S = 5.0
"""Seconds between two questions to a node that has not answered."""
ANSWER_S = 120.0
"""How long a new node has to answer."""

Key = tuple[tuple[str, str], ...]
"""Nodes without a seat: ids and boots."""


class Growth:
    """Considers every new set of nodes once a term."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._state = context.state
        self._considered: tuple[int, Key] | None = None
        self._since: tuple[float, Key] = (0.0, ())
        self._asked: dict[str, float] = {}
        self._search: FindBetterPlan | None = None
        self._found: BetterPlan | None = None
        self._nodes: dict[str, Presence] = {}
        """All nodes that the search may use."""

    def watch(self) -> None:
        """A second has passed in an open round: look for nodes that have no seat."""
        state, now = self._state, self._context.now
        if not state.job.is_elastic or state.planned is not None or self._search is not None or self._found is not None:
            return
        free = self._free()
        spare = tuple((id, node.boot) for id, node in free.items() if state.seat_of(id) is None)
        if not spare or self._considered == (state.term, spare):
            return
        if self._since[1] != spare:
            self._since, self._asked = (now, spare), {}
        asked = questions(state.job, len(state.need_model().block_costs))["node"]
        silent = [id for id, _ in spare if answer_of(free[id], asked) is None]
        if silent and now - self._since[0] < ANSWER_S:
            for id in silent:
                if now - self._asked.get(id, -ASK_AGAIN_S) >= ASK_AGAIN_S:
                    self._asked[id] = now
                    self._context.command("node", id, command(free[id].boot, asked))
            return
        self._considered = (state.term, spare)
        self._begin({id: node for id, node in free.items() if id not in silent})

    def _free(self) -> dict[str, Presence]:
        """Nodes that have a seat, or may take one."""
        nodes = self._context.census.free("node", self._context.now)
        return {node.id: node for node in nodes if self._state.unfit_nodes.get(node.id) != node.boot}

    def _begin(self, nodes: dict[str, Presence]) -> None:
        """Have a better plan looked for."""
        state, plan = self._state, self._state.need_plan()
        devices = [self._context.census.get("dev", id) for id, member in state.members.items() if member.joined]
        members = [*nodes.values(), *(device for device in devices if device is not None)]
        if any(seat.node not in nodes for seat in plan.seats) or any(machine_of(each) is None for each in members):
            return
        seats = tuple(PlannedSeat(seat.stage, seat.replica, seat.node, seat.blocks) for seat in plan.seats)
        served = {each.id: plan.devices[each.id].replicas for each in members if each.branch == "dev"}
        try:
            profile = profile_of(state.job, state.need_model(), members)
            fleet = fleet_of(state.job, state.need_model(), members, state.links)
            now = PlannedRun(plan.cuts, seats, served, min(plan.admit, len(served)))
        except (UsageError, ValueError) as error:
            self._context.log("warning", "not-grown", reason=str(error))
            return
        self._nodes = nodes
        self._search = FindBetterPlan(profile, fleet, now)
        self._context.start_run_job(self._search)

    def found(self, job: FindBetterPlan, result: BetterPlan) -> None:
        """The worker has looked."""
        if job is not self._search:
            return
        self._search = None
        better, now_s = result.choice, round(result.now_s, 3)
        if better is not None:
            log_choice(self._context, better)
            self._found = result
        else:
            self._context.log("info", "not-grown", reason="no plan is 5 % shorter", round_s=now_s)

    def failed(self, job: FindBetterPlan, reason: str) -> None:
        """There is no plan."""
        if job is self._search:
            self._search = None
            self._context.log("warning", "not-grown", reason=reason)

    def reset(self) -> None:
        """The term is over: what was found is of no use any more."""
        self._search = self._found = None

    @property
    def is_ready(self) -> bool:
        """Whether a better plan waits for the boundary of a round."""
        return self._found is not None

    def seat(self) -> bool:
        """At the boundary: take the plan, if its nodes are still there. Returns whether it is taken."""
        state, found = self._state, self._found
        self._found = None
        if found is None or found.choice is None:
            return False
        plan, free = found.choice.plan, self._free()
        nodes = [free.get(seat.node) for seat in plan.seats]
        there = [node for node in nodes if node is not None and node.boot == self._nodes[node.id].boot]
        if len(there) < len(plan.seats):
            self._context.log("info", "not-grown", reason="a node has gone")
            return False
        devices = []
        for id, entry in state.need_plan().devices.items():
            presence = self._context.census.get("dev", id)
            devices.append(presence or Presence("dev", id, status={"boot": entry.boot}))
        fleet = replace(state.job.fleet, nodes=len(there))
        job = replace(state.job, fleet=fleet, model=replace(state.job.model, cuts=plan.cuts))
        take(self._context, found.choice)
        planned = PlannedRun(plan.cuts, plan.seats, {each.id: (0,) * len(there) for each in devices}, plan.admit)
        state.seating = (job, Seating(there, devices, state.run, state.boot, planned))
        joined = ", ".join(node.id for node in there if state.seat_of(node.id) is None)
        state.term_reason = f"shorter rounds with {joined}: {found.now_s:.3g} s to {plan.predicted.round_s:.3g} s"
        return True
