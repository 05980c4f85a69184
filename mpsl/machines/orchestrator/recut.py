"""Re-cuts the chain of a job without cuts over other nodes.

The new plan uses what the participants measured before the run. If that is not known of all of them, the model is cut
evenly by estimated compute.
"""

from collections.abc import Sequence
from dataclasses import replace

from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.machines.census import Presence
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.planned import log_choice, take
from mpsl.machines.orchestrator_jobs import FindPlan
from mpsl.machines.seating import Seating
from mpsl.machines.survey import fleet_of, profile_of
from mpsl.planning.plan_file import Choice

Key = tuple[tuple[str, str], ...]
"""The nodes that a plan is for: ids and boots."""


class Recut:
    """Searches for at most one plan at a time."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._search: tuple[Key, FindPlan] | None = None
        """The nodes of the present search, and its job."""
        self._found: dict[Key, Choice | None] = {}
        """Results of searches; None if there is no plan from measured times."""

    def reset(self) -> None:
        """Forget the results, and ignore that of the present search."""
        self._search = None
        self._found.clear()

    @property
    def planning(self) -> bool:
        """Whether a search is running."""
        return self._search is not None

    def seating(self, job: Job, nodes: Sequence[Presence], devices: Sequence[Presence]) -> tuple[Job, Seating] | None:
        """Return the job with its cuts, and the seating; None while the search is running."""
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
        """The worker has found a plan. A plan of an abandoned search is ignored: its nodes may be gone."""
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
        """Start a search, if all participants have measured. Returns whether it has started."""
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
