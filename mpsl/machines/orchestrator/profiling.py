"""Profiling: where the job has no cuts, everyone measures, then the links are measured, and the plan is made from that.

Nothing here may stop a run: where someone does not answer in time, or nothing can be planned, the model is cut evenly
by estimated compute, and the log says why.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from mpsl.errors import UsageError
from mpsl.machines.census import Presence
from mpsl.machines.effects import CancelTimer, Run, SetTimer
from mpsl.machines.jobs import FindPlan
from mpsl.machines.orchestrator.link_survey import LinkSurvey
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.machines.seating import Seating
from mpsl.machines.self_profile import command
from mpsl.machines.survey import answer_of, fleet_of, machine_of, may_ask, profile_of, questions, representatives
from mpsl.planning.plan_file import PlanFile, Predicted
from mpsl.planning.profile import Profile
from mpsl.topics import Branch

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

S = OrchestratorState

PATIENCE_S = 120.0
"""How long answers are waited for."""
AGAIN_S = 5.0
"""How often one is asked who has not answered."""


class Profiling:
    """Who takes part, who has been asked, and the plan once it is found."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._nodes: list[Presence] = []
        self._devices: list[Presence] = []
        self._members: dict[tuple[Branch, str], Presence] = {}
        self._boots: dict[tuple[Branch, str], str] = {}
        self._waiting: list[tuple[Branch, str]] = []
        self._asked: dict[tuple[Branch, str], float] = {}
        self._planning = False
        self._found: PlanFile | None = None
        self.links = LinkSurvey(machine)

    @property
    def predicted(self) -> Predicted | None:
        """What the plan of the run is to take, where it was made here."""
        return self._found.predicted if self._found else None

    def wanted(self, members: list[Presence]) -> bool:
        """Whether this fleet is to be measured: the job leaves the cuts open, and everyone can be asked.

        A job that asks for replicas is dealt its nodes in turn; a plan of so many hops has none.
        """
        job = self._machine.job
        alone = job.hops > 0 and job.fleet.replicas == 1
        return alone and job.model.cuts is None and all(machine_of(member) for member in members)

    def begin(self, nodes: list[Presence], devices: list[Presence]) -> None:
        """Ask for what has not been answered yet."""
        machine, members = self._machine, [*nodes, *devices]
        machine.state = S.PROFILING
        self._nodes, self._devices = nodes, devices
        self._members = {(member.branch, member.id): member for member in members}
        self._boots = {key: member.boot for key, member in self._members.items()}
        self._waiting = [(member.branch, member.id) for member in representatives(members)]
        self._asked = {}
        self._planning = False
        machine.do(SetTimer("profiling", machine.now + PATIENCE_S))
        self.go_on()

    def go_on(self) -> None:
        """Someone has said something, or time has passed: ask whom there is room for; plan once all have answered."""
        machine = self._machine
        if self._planning:
            return
        gone = [id for (_, id), member in self._members.items() if not self._is_there(member)]
        if gone:
            machine.log("warning", "left-while-profiling", run=machine.run, gone=gone)
            machine.do(CancelTimer("profiling"))
            self.links.abandon()
            machine.state = S.GATHERING
            return
        if self.links.busy:
            return
        assert machine.model is not None
        asked = questions(machine.job, len(machine.model.block_costs))
        for key in [key for key in self._waiting if answer_of(self._members[key], asked[key[0]]) is not None]:
            self._waiting.remove(key)
            self._asked.pop(key, None)
        for key in self._waiting:
            busy = [self._members[other] for other in self._asked if other != key]
            if machine.now - self._asked.get(key, -AGAIN_S) >= AGAIN_S and may_ask(self._members[key], busy):
                self._asked[key] = machine.now
                self._machine.command(*key, command(self._boots[key], asked[key[0]]))
        if not self._waiting:
            self._sum_up()

    def waiting_for(self) -> list[str]:
        """Who has yet to answer, or whose link is being measured."""
        return self.links.waiting_for() or [id for _, id in self._waiting]

    def too_late(self) -> None:
        """PATIENCE_S is over."""
        self.failed(f"no times from {', '.join(self.waiting_for())} within {PATIENCE_S:g} s")

    def planned(self, found: PlanFile) -> None:
        """The worker has found the plan."""
        machine = self._machine
        if machine.state is not S.PROFILING:
            return
        self._found = found
        predicted = found.predicted
        machine.log(
            "info", "planned", run=machine.run, cuts=list(found.cuts), round_s=round(predicted.round_s, 3),
            bottleneck=f"{predicted.bottleneck.kind} {predicted.bottleneck.id}",
        )  # fmt: skip
        self._seat()

    def failed(self, reason: str) -> None:
        """There is no plan from measured times: cut evenly instead."""
        machine = self._machine
        if machine.state is S.PROFILING:
            machine.log("warning", "not-profiled", run=machine.run, reason=f"{reason}; cut by estimated compute")
            self._seat()

    def _sum_up(self) -> None:
        """All have answered: of the links is only asked where a plan can come of it."""
        machine = self._machine
        assert machine.model is not None
        machine.do(CancelTimer("profiling"))
        asked = questions(machine.job, len(machine.model.block_costs))
        answers = {member.id: answer_of(member, asked[member.branch]) for member in self._members.values()}
        errors = [f"{id}: {answer.error}" for id, answer in answers.items() if answer is not None and answer.error]
        if errors:
            self.failed("; ".join(errors))
            return
        members = list(self._members.values())
        try:
            profile = profile_of(machine.job, machine.model, members)
        except UsageError as error:
            self.failed(str(error))
            return
        self.links.begin(members, lambda: self._plan(profile))

    def _plan(self, profile: Profile) -> None:
        machine = self._machine
        assert machine.model is not None
        try:
            fleet = fleet_of(machine.job, machine.model, list(self._members.values()), self.links.figures)
        except UsageError as error:
            self.failed(str(error))
            return
        self._planning = True
        machine.do(Run(FindPlan(profile, fleet, machine.job.hops)))

    def _seat(self) -> None:
        machine, found = self._machine, self._found
        machine.do(CancelTimer("profiling"))
        if not all(self._is_there(member) for member in self._members.values()):
            self._found = None
            machine.state = S.GATHERING
            return
        job = machine.job
        if found is not None:
            job = replace(job, model=replace(job.model, cuts=found.cuts))
        machine.gathering.seat(job, Seating(self._nodes, self._devices, machine.run, machine.boot, found))

    def _is_there(self, member: Presence) -> bool:
        key = (member.branch, member.id)
        return member.free(self._machine.now) and member.boot == self._boots[key]
