"""Gathering: waits until the fleet of the job or of its plan is present and the model's facts are known."""

from mpsl import PROTOCOL
from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator_jobs import BuildModel, ModelBuilt
from mpsl.machines.seating import Seating
from mpsl.machines.survey import machine_of
from mpsl.machines.tables.run import RunOutcome
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import Branch

MAX_NAMED = 6


class Gathering(Phase):
    """Lasts from the first connection until there is a fleet to seat, or to measure first."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self._strangers: set[str] = set()

    def connected(self) -> None:
        """Note a connection. The first one starts the run's clock and the job that builds the model."""
        if self.state.started_at is None:
            self.state.started_at = self.context.now
            self.context.set_timer("start", self.state.job.fleet.start_timeout_s)
            self.context.start_run_job(BuildModel(self.state.job))

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The model is built."""
        if isinstance(result, ModelBuilt):
            self.state.model = result
            self._gather()

    def watch(self) -> None:
        """Look at the fleet."""
        self._note_strangers()
        self._gather()

    def outcome(self) -> RunOutcome | None:
        """The fleet is present. A resumed run knows its fleet and only needs the model."""
        if self.state.unfinished is not None:
            return RunOutcome.RESUMED if self.state.model is not None else None
        if self.state.seating is None:
            return None
        _, seating = self.state.seating
        return RunOutcome.PROFILE_WANTED if self._is_profile_wanted(seating) else RunOutcome.SEATED

    def timer_fired(self, name: str) -> None:
        """start_timeout_s is over."""
        if name == "start":
            strangers = f"; there, but not in the plan: {', '.join(sorted(self._strangers))}" if self._strangers else ""
            limit, missing = self.state.job.fleet.start_timeout_s, ", ".join(self.waiting_for())
            fleet = self.state.job.fleet
            known = self._unavailable("node", fleet.nodes) + self._unavailable("dev", fleet.devices)
            self.context.fail(
                f"not everyone was there after start_timeout_s = {limit:g} s; waiting for: {missing}{strangers}{known}"
            )

    def _unavailable(self, branch: Branch, wanted: int) -> str:
        """What is known of those who are missing: some may be seen in part, or nothing at all has arrived of any."""
        census, topics, what = self.context.census, self.context.topics, "device" if branch == "dev" else "node"
        if census.count_free(branch, self.context.now) >= wanted:
            return ""
        if not census.has_seen(branch):
            topic = topics.participant(branch, "+", "status")
            return (
                f"; no {what} has been seen: do they use this broker and --net {topics.net}, and do its access "
                f"rules let them write and orch read {topic}?"
            )
        lacking = census.lacking(branch, self.context.now)
        named = ", ".join(f"{id} ({why})" for id, why in list(lacking.items())[:MAX_NAMED])
        more = f" and {len(lacking) - MAX_NAMED} more" if len(lacking) > MAX_NAMED else ""
        return f"; seen, but not free: {named}{more}" if named else ""

    def waiting_for(self) -> list[str]:
        """Return the missing participants of the plan, or without a plan how many devices and nodes are missing."""
        fleet, census, now = self.state.job.fleet, self.context.census, self.context.now
        if self.state.unfinished is not None:
            return []
        if self.state.planned is not None:
            return [id for branch, id in _named_by(self.state.planned) if not self._is_free(branch, id)]
        missing = (
            (fleet.devices - census.count_free("dev", now), "device"),
            (fleet.nodes - census.count_free("node", now), "node"),
        )
        return [f"{count} more {what}{'s' if count > 1 else ''}" for count, what in missing if count > 0]

    def _gather(self) -> None:
        """Choose the participants once the fleet is present and the model's facts are known."""
        state, census, now = self.state, self.context.census, self.context.now
        other = census.of_other_protocol(now)
        if other is not None:
            self.context.fail(
                f"{other.branch}/{other.id} speaks protocol {other.status.get('protocol')}, this orchestrator "
                f"{PROTOCOL}; install the same version or use another --net"
            )
            return
        if state.unfinished is not None or state.model is None or self.waiting_for():
            return
        nodes, devices = census.free("node", now), census.free("dev", now)
        if state.planned is None:
            nodes, devices = nodes[: state.job.fleet.nodes], devices[: state.job.fleet.devices]
        else:
            named = _named_by(state.planned)
            nodes, devices = ([each for each in free if (each.branch, each.id) in named] for free in (nodes, devices))
        state.seating = (state.job, Seating(nodes, devices, state.run, state.boot, state.planned))

    def _is_profile_wanted(self, seating: Seating) -> bool:
        """Whether to measure the fleet first: the job leaves the cuts open, and all participants can be asked.

        A job with replicas gets its nodes in turn instead, because the planner's chains for a run have no replicas. A
        node that serves another run cannot measure.
        """
        job = self.state.job
        chain = job.hops > 0 and job.fleet.replicas == 1
        members = [*seating.nodes, *seating.devices]
        can_measure = all(machine_of(each) and set(each.runs) <= {self.state.run} for each in members)
        return chain and job.model.cuts is None and can_measure

    def _is_free(self, branch: Branch, id: str) -> bool:
        presence = self.context.census.get(branch, id)
        return presence is not None and presence.free(self.context.now, self.state.run)

    def _note_strangers(self) -> None:
        """Log, once for each, the available participants that have no place in the plan."""
        if self.state.planned is None:
            return
        named = _named_by(self.state.planned)
        branches: tuple[Branch, ...] = ("node", "dev")
        free: list[Presence] = [
            each for branch in branches for each in self.context.census.free(branch, self.context.now)
        ]
        for presence in free:
            if (presence.branch, presence.id) not in named and presence.id not in self._strangers:
                self._strangers.add(presence.id)
                self.context.log("warning", "not-in-the-plan", role=presence.branch, id=presence.id)


def _named_by(planned: PlannedRun) -> dict[tuple[Branch, str], None]:
    """Return all participants of a plan: its nodes, then its devices."""
    nodes: list[tuple[Branch, str]] = [("node", seat.node) for seat in planned.seats]
    return dict.fromkeys([*nodes, *(("dev", id) for id in planned.devices)])
