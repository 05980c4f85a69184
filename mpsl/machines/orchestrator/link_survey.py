"""The links of a fleet, measured one after the other, for all lead to the orchestrator and would share its own.

Nothing here may stop a run: who does not answer in time counts as if nobody had asked, and the log says so.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from mpsl.link.channel import CHUNK_BYTES
from mpsl.machines.census import Presence
from mpsl.machines.effects import CancelTimer, SetTimer
from mpsl.machines.link_sample import filled, sample
from mpsl.machines.orchestrator.link_visit import LinkVisit
from mpsl.profiling import FIRST_TERM, LinkFigures, LinkQuestion
from mpsl.topics import BinaryTopic
from mpsl.wire import Buffer

if TYPE_CHECKING:
    from mpsl.machines.orchestrator.machine import OrchestratorMachine

TIMER = "links"
AGAIN_S = 2.0
"""How often one is asked who has not answered."""
PATIENCE_S = 8.0
"""How long the answer is waited for."""
VISIT_S = 20.0
"""How long one link is then measured at most: what is known by then counts."""
SURVEY_S = 60.0
"""And all of them; never more than half of what is left for the start."""


class LinkSurvey:
    """Whom it has yet to turn to, whom it measures, and what it has found."""

    def __init__(self, machine: "OrchestratorMachine") -> None:
        self._machine = machine
        self._members: list[Presence] = []
        self._waiting: list[Presence] = []
        self._visit: LinkVisit | None = None
        self._found: dict[str, LinkFigures | None] = {}
        """By boot; None of those who did not answer. Nobody is asked again."""
        self._term = FIRST_TERM
        self._began = 0.0
        self._until = 0.0
        self._then: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """Whether it goes on."""
        return self._visit is not None

    @property
    def figures(self) -> dict[str, LinkFigures]:
        """What the plan is made from, by id; who is missing counts as fast."""
        measured = {member.id: figures for member in self._members if (figures := self._found.get(member.boot))}
        return filled(self._members, measured, self._silent())

    def _silent(self) -> list[str]:
        return [member.id for member in self._members if self._found.get(member.boot, self) is None]

    def waiting_for(self) -> list[str]:
        """Whose link is being measured."""
        return [self._visit.id] if self._visit else []

    def begin(self, members: list[Presence], then: Callable[[], None]) -> None:
        """Measure those of these who have not been measured, and go on with `then`."""
        machine = self._machine
        self._members, self._then = members, then
        self._waiting = [member for member in sample(members) if member.boot not in self._found]
        started_at = machine.now if machine.gathering.started_at is None else machine.gathering.started_at
        left = started_at + machine.job.fleet.start_timeout_s - machine.now
        self._began = machine.now
        self._until = machine.now + min(SURVEY_S, max(0.0, left / 2))
        self._turn_to_next()

    def abandon(self) -> None:
        """The fleet has changed, or the run is over: nobody is waited for."""
        if self._visit is not None:
            self._machine.post(self._visit.end(self._machine.now))
            self._machine.do(CancelTimer(TIMER))
        self._visit, self._waiting = None, []

    def receive(self, topic: BinaryTopic, payload: Buffer) -> None:
        """Something on our address, before there is a plan."""
        if self._visit is not None:
            answered = self._visit.answered
            self._machine.post(self._visit.receive(topic, payload, self._machine.now))
            if self._visit.answered and not answered:
                self._visit.until = self._machine.now + VISIT_S
            self._go_on(self._visit)

    def fired(self) -> None:
        """The timer."""
        if self._visit is not None:
            self._machine.post(self._visit.due(self._machine.now))
            self._go_on(self._visit)

    def _go_on(self, visit: LinkVisit) -> None:
        machine, until = self._machine, min(visit.until, self._until)
        if not visit.over and machine.now < until:
            if not visit.answered and machine.now >= visit.asked_at + AGAIN_S:
                visit.asked_at = machine.now
                machine.command(visit.branch, visit.id, visit.command())
            again = inf if visit.answered else visit.asked_at + AGAIN_S
            due = visit.next_due()
            machine.do(SetTimer(TIMER, min(until, again, inf if due is None else due)))
            return
        if not visit.over:
            machine.post(visit.end(machine.now))
        self._found[visit.boot] = visit.figures()
        self._turn_to_next()

    def _turn_to_next(self) -> None:
        machine = self._machine
        self._visit = None
        if self._waiting and machine.now < self._until:
            member = self._waiting.pop(0)
            self._term += 1
            chunk = min(machine.job.wire.chunk_bytes, (machine.max_packet or CHUNK_BYTES * 1024) - 1024)
            question = LinkQuestion(machine.run, machine.boot, self._term, chunk)
            until = machine.now + PATIENCE_S
            self._visit = LinkVisit(machine.topics, question, member.branch, member.id, member.boot, until)
            self._go_on(self._visit)
            return
        self._waiting = []
        machine.do(CancelTimer(TIMER))
        self._say()
        self._then()

    def _say(self) -> None:
        """What has been found, for people."""
        machine, figures, silent = self._machine, self.figures, self._silent()
        if silent:
            machine.log("warning", "links-not-measured", run=machine.run, ids=silent, reason="no answer in time")
        if figures:
            slowest = min(figures, key=lambda id: min(figures[id].up_mbps, figures[id].down_mbps))
            farthest = max(figures, key=lambda id: figures[id].latency_ms)
            machine.log(
                "info", "links-measured", run=machine.run, seconds=round(machine.now - self._began, 1),
                measured=sum(self._found.get(member.boot) is not None for member in self._members),
                slowest=slowest, up_mbps=figures[slowest].up_mbps, down_mbps=figures[slowest].down_mbps,
                farthest=farthest, latency_ms=figures[farthest].latency_ms,
            )  # fmt: skip
