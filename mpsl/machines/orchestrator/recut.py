"""A re-cut: the chain of a job without cuts is planned anew over other nodes.

It is planned from what everyone has measured before the run, where that is known of all of them; else the model is cut
evenly by estimated compute.
"""

from collections.abc import Sequence
from dataclasses import replace

from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.jobs import FindPlan
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.planned import log_choice, take
from mpsl.machines.seating import Seating
from mpsl.machines.survey import fleet_of, profile_of
from mpsl.planning.plan_file import Choice

Key = tuple[tuple[str, str], ...]
"""The nodes that a plan is for: ids and boots."""


class Recut:
    """At most one plan is being looked for."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._search: tuple[Key, FindPlan] | None = None
        """The nodes for which a plan is being looked for, and the job that looks."""
        self._found: dict[Key, Choice | None] = {}
        """What came of the search; None where there is no plan from measured times."""

    def reset(self) -> None:
        """Forget what was found before, and what is being looked for: its answer will be ignored."""
        self._search = None
        self._found.clear()

    @property
    def planning(self) -> bool:
        """Whether a plan is being looked for."""
        return self._search is not None

    def seating(self, job: Job, nodes: Sequence[Presence], devices: Sequence[Presence]) -> tuple[Job, Seating] | None:
        """The job with its cuts and who sits where; None while the plan is being looked for."""
        state = self._context.state
        key = tuple((node.id, node.boot) for node in nodes)
        if key not in self._found and not self._begin(job, nodes, devices, key):
            self._found[key] = None
        if self.planning:
            return None
        found = self._found[key]
        take(self._context, found)
        if found is not None:
            job = replace(job, model=replace(job.model, cuts=found.plan.cuts))
        planned = None if found is None else found.plan
        return job, Seating(list(nodes[: job.seats]), list(devices), state.run, state.boot, planned)

    def found(self, job: FindPlan, choice: Choice) -> None:
        """The worker has found a plan; one that was asked for before another loss names nodes that may be gone."""
        if self._search is not None and self._search[1] is job:
            self._found[self._search[0]] = choice
            self._search = None
            log_choice(self._context, choice)

    def failed(self, job: FindPlan, reason: str) -> None:
        """There is no plan."""
        if self._search is None or self._search[1] is not job:
            return
        self._found[self._search[0]] = None
        self._search = None
        self._context.log("warning", "not-profiled", reason=f"{reason}; cut by estimated compute")

    def _begin(self, job: Job, nodes: Sequence[Presence], devices: Sequence[Presence], key: Key) -> bool:
        """Have a plan looked for, where everyone has measured."""
        state = self._context.state
        if job.fleet.replicas > 1 or job.hops == 0:
            return False
        members = [*nodes, *devices]
        try:
            profile = profile_of(job, state.need_model(), members)
            fleet = fleet_of(job, state.need_model(), members, state.links)
        except UsageError as error:
            self._context.log("warning", "not-profiled", reason=f"{error}; cut by estimated compute")
            return False
        self._search = (key, FindPlan(profile, fleet, job.hops))
        self._context.start_run_job(self._search[1])
        return True
