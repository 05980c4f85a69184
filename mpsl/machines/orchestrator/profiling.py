"""Profiling: if the job has no cuts, measures the participants, then their links, and plans from the figures.

Nothing here may stop a run: if a participant does not answer in time, or no plan is found, the model is cut evenly by
estimated compute, and the log says why.
"""

from dataclasses import replace

from mpsl.errors import UsageError
from mpsl.machines.census import Presence
from mpsl.machines.jobs import Result, WorkerJob
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.link_survey import LinkSurvey
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.planned import log_choice, take
from mpsl.machines.orchestrator_jobs import FindPlan, PlanFound
from mpsl.machines.seating import Seating
from mpsl.machines.self_profile import command
from mpsl.machines.survey import answer_of, fleet_of, may_ask, profile_of, questions, representatives
from mpsl.machines.tables.run import RunOutcome
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.profile_file import Profile
from mpsl.topics import Branch

ANSWER_S = 120.0
"""How long the phase waits for the answers of all participants."""
ASK_AGAIN_S = 5.0
"""Seconds between two questions to a participant that has not answered."""


class Profiling(Phase):
    """Holds the participants, the questions asked, and the plan once it is found."""

    def __init__(self, context: RunContext) -> None:
        super().__init__(context)
        self.links = LinkSurvey(context)
        self._nodes: list[Presence] = []
        self._devices: list[Presence] = []
        self._members: dict[tuple[Branch, str], Presence] = {}
        self._boots: dict[tuple[Branch, str], str] = {}
        self._waiting: list[tuple[Branch, str]] = []
        self._asked: dict[tuple[Branch, str], float] = {}
        self._profile: Profile | None = None
        self._planning = False
        self._found: PlanFile | None = None
        self._outcome: RunOutcome | None = None

    def enter(self) -> None:
        """Ask every kind of participant whose answer is not known yet."""
        assert self.state.seating is not None
        _, seating = self.state.seating
        self.state.seating = None
        members = [*seating.nodes, *seating.devices]
        self._nodes, self._devices = seating.nodes, seating.devices
        self._members = {(member.branch, member.id): member for member in members}
        self._boots = {key: member.boot for key, member in self._members.items()}
        self._waiting = [(member.branch, member.id) for member in representatives(members)]
        self._asked = {}
        self._profile = None
        self._planning = False
        self._found = None
        self._outcome = None
        self.context.set_timer("profiling", ANSWER_S)
        self._go_on()

    def seen(self, presence: Presence) -> None:
        """A participant's status, info or telemetry has changed."""
        self._go_on()

    def watch(self) -> None:
        """Time has passed."""
        self._go_on()

    def outcome(self) -> RunOutcome | None:
        """The fleet has its plan, or has changed."""
        if self._profile is not None and self.links.done and not self._planning and self._outcome is None:
            self._plan(self._profile)
        return self._outcome

    def _go_on(self) -> None:
        """Ask those whose machine has cores left; evaluate once all have answered."""
        state, context = self.state, self.context
        if self._planning or self._outcome is not None:
            return
        gone = [id for (_, id), member in self._members.items() if not self._is_there(member)]
        if gone:
            context.log("warning", "left-while-profiling", gone=gone)
            self._end(RunOutcome.FLEET_CHANGED)
            return
        if self._profile is not None:
            return
        asked = questions(state.job, len(state.need_model().block_costs))
        for key in [key for key in self._waiting if answer_of(self._members[key], asked[key[0]]) is not None]:
            self._waiting.remove(key)
            self._asked.pop(key, None)
        for key in self._waiting:
            busy = [self._members[other] for other in self._asked if other != key]
            if context.now - self._asked.get(key, -ASK_AGAIN_S) >= ASK_AGAIN_S and may_ask(self._members[key], busy):
                self._asked[key] = context.now
                context.command(*key, command(self._boots[key], asked[key[0]]))
        if not self._waiting:
            self._sum_up()

    def waiting_for(self) -> list[str]:
        """Return who has not answered, or whose link is being measured; or the plan, while it is being searched for."""
        if self._planning:
            return ["the plan"]
        return self.links.waiting_for() or [id for _, id in self._waiting]

    def timer_fired(self, name: str) -> None:
        """ANSWER_S or start_timeout_s is over."""
        missing = ", ".join(self.waiting_for())
        if name == "profiling":
            self._cut_evenly(f"no times from {missing} within {ANSWER_S:g} s")
        elif name == "start":
            limit = self.state.job.fleet.start_timeout_s
            self.context.fail(f"not everyone was there after start_timeout_s = {limit:g} s; waiting for: {missing}")

    def job_done(self, job: WorkerJob, result: Result) -> None:
        """The worker has found the plan."""
        if isinstance(result, PlanFound) and self._outcome is None:
            log_choice(self.context, result.choice)
            take(self.context, result.choice)
            self._found = result.choice.plan
            self._seat()

    def job_failed(self, job: WorkerJob, reason: str) -> bool:
        """There is no plan from measured times."""
        if isinstance(job, FindPlan):
            self._cut_evenly(reason)
            return True
        return False

    def _cut_evenly(self, reason: str) -> None:
        """There is no plan from measured times: cut evenly instead."""
        if self._outcome is None:
            self.context.log("warning", "not-profiled", reason=f"{reason}; cut by estimated compute")
            take(self.context, None)
            self._seat()

    def _sum_up(self) -> None:
        """Merge the answers into a profile. The links are measured only if that succeeds."""
        state = self.state
        self.context.cancel_timer("profiling")
        asked = questions(state.job, len(state.need_model().block_costs))
        answers = {member.id: answer_of(member, asked[member.branch]) for member in self._members.values()}
        errors = [f"{id}: {answer.error}" for id, answer in answers.items() if answer is not None and answer.error]
        if errors:
            self._cut_evenly("; ".join(errors))
            return
        members = list(self._members.values())
        try:
            self._profile = profile_of(state.job, state.need_model(), members)
        except UsageError as error:
            self._cut_evenly(str(error))
            return
        self.links.begin(members)

    def _plan(self, profile: Profile) -> None:
        state, members = self.state, list(self._members.values())
        state.links = self.links.figures
        try:
            fleet = fleet_of(state.job, state.need_model(), members, state.links)
        except UsageError as error:
            self._cut_evenly(str(error))
            return
        self._planning = True
        self.context.start_run_job(FindPlan(profile, fleet, state.job.hops))

    def _seat(self) -> None:
        state, found = self.state, self._found
        if not all(self._is_there(member) for member in self._members.values()):
            self._end(RunOutcome.FLEET_CHANGED)
            return
        job = state.job
        if found is not None:
            job = replace(job, model=replace(job.model, cuts=found.cuts))
        state.seating = (job, Seating(self._nodes, self._devices, state.run, state.boot, found))
        self._end(RunOutcome.SEATED)

    def _end(self, outcome: RunOutcome) -> None:
        self.context.cancel_timer("profiling")
        self.links.abandon()
        if outcome is RunOutcome.FLEET_CHANGED:
            take(self.context, None)
        self._outcome = outcome

    def _is_there(self, member: Presence) -> bool:
        key = (member.branch, member.id)
        return member.free(self.context.now, self.state.run) and member.boot == self._boots[key]
