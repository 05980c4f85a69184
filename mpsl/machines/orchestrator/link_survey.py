"""Measures the links of a fleet, one after the other, because all of them share the orchestrator's own link.

Nothing here may stop a run: a participant that does not answer in time is left out of the figures, and the log says so.
"""

from math import inf

from mpsl.machines.census import Presence
from mpsl.machines.link_sample import filled, sample
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.link_visit import LinkVisit
from mpsl.machines.session_id import SessionId
from mpsl.profile_questions import FIRST_TERM, LinkFigures, LinkQuestion
from mpsl.topics import BinaryTopic
from mpsl.wire import Buffer

LINKS_TIMER = "links"
ASK_AGAIN_S = 2.0
"""Seconds between two questions to a participant that has not answered."""
ANSWER_S = 8.0
"""How long the survey waits for an answer."""
VISIT_S = 20.0
"""The longest measurement of one link. Whatever is known by then counts."""
SURVEY_S = 60.0
"""The longest survey. It also takes at most half of the time that is left for the start."""


class LinkSurvey:
    """Holds the members that wait for their measurement, the present one, and the figures so far."""

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._members: list[Presence] = []
        self._waiting: list[Presence] = []
        self._visit: LinkVisit | None = None
        self._found: dict[str, LinkFigures | None] = {}
        """By boot; None if there was no answer. No process is measured twice."""
        self._term = FIRST_TERM
        self._began = 0.0
        self._until = 0.0
        self.done = False
        """Whether the survey is over: all are measured, or the time is up."""

    @property
    def figures(self) -> dict[str, LinkFigures]:
        """The figures for the planner, by id. A link without figures counts as fast."""
        measured = {member.id: figures for member in self._members if (figures := self._found.get(member.boot))}
        return filled(self._members, measured, self._silent())

    def _silent(self) -> list[str]:
        return [member.id for member in self._members if self._found.get(member.boot, self) is None]

    def waiting_for(self) -> list[str]:
        """Return the participant whose link is being measured."""
        return [self._visit.id] if self._visit else []

    def begin(self, members: list[Presence]) -> None:
        """Measure the members that have not been measured yet."""
        state, now = self._context.state, self._context.now
        self._members = members
        self._waiting = [member for member in sample(members) if member.boot not in self._found]
        started_at = now if state.started_at is None else state.started_at
        left = started_at + state.job.fleet.start_timeout_s - now
        self._began = now
        self._until = now + min(SURVEY_S, max(0.0, left / 2))
        self.done = False
        self._turn_to_next()

    def abandon(self) -> None:
        """Stop, because the fleet has changed or the run is over."""
        if self._visit is not None:
            self._end_visit(self._visit)
            self._context.cancel_timer(LINKS_TIMER)
        self._waiting = []

    def receive(self, topic: BinaryTopic, payload: Buffer) -> None:
        """Take a payload on the orchestrator's address, before there is a plan."""
        if self._visit is not None:
            answered = self._visit.answered
            self._visit.receive(topic, payload, self._context.now)
            self._context.heard(self._visit.session, topic.source)
            if self._visit.answered and not answered:
                self._visit.until = self._context.now + VISIT_S
            self._go_on(self._visit)

    def timer_fired(self, session: SessionId | None) -> None:
        """A timer of the survey (session None) or of the present visit has fired."""
        if self._visit is not None and session in (None, self._visit.session.id):
            self._visit.session.flush(self._context.now)
            self._go_on(self._visit)

    def _go_on(self, visit: LinkVisit) -> None:
        context, until = self._context, min(self._given_up_at(visit), self._until)
        if not visit.over and context.now < until:
            if not visit.answered and context.now >= visit.asked_at + ASK_AGAIN_S:
                visit.asked_at = context.now
                context.command(visit.branch, visit.id, visit.command())
            again = inf if visit.answered else visit.asked_at + ASK_AGAIN_S
            context.set_timer(LINKS_TIMER, min(until, again) - context.now)
            return
        self._found[visit.boot] = visit.figures()
        self._end_visit(visit)
        self._turn_to_next()

    def _given_up_at(self, visit: LinkVisit) -> float:
        """Return the visit's deadline. It allows for bytes in flight to the participant, but at most VISIT_S more."""
        return visit.until + min(VISIT_S, visit.session.channel.seconds_under_way(visit.id))

    def _end_visit(self, visit: LinkVisit) -> None:
        if not visit.over:
            visit.end(self._context.now)
        visit.session.flush(inf)
        visit.session.end()
        self._visit = None

    def _turn_to_next(self) -> None:
        context, state = self._context, self._context.state
        if self._waiting and context.now < self._until:
            member = self._waiting.pop(0)
            self._term += 1
            question = LinkQuestion(state.run, state.boot, self._term, context.chunk_bytes)
            until = context.now + ANSWER_S
            self._visit = LinkVisit(
                context.topics, question, member.branch, member.id, member.boot, until, context.emit
            )
            self._go_on(self._visit)
            return
        self._waiting = []
        context.cancel_timer(LINKS_TIMER)
        self._log_figures()
        self.done = True

    def _log_figures(self) -> None:
        """Log the slowest and the farthest link, and who has not answered."""
        context, figures, silent = self._context, self.figures, self._silent()
        if silent:
            context.log("warning", "links-not-measured", ids=silent, reason="no answer in time")
        if figures:
            slowest = min(figures, key=lambda id: min(figures[id].up_mbps, figures[id].down_mbps))
            farthest = max(figures, key=lambda id: figures[id].latency_ms)
            context.log(
                "info", "links-measured", seconds=round(context.now - self._began, 1),
                measured=sum(self._found.get(member.boot) is not None for member in self._members),
                slowest=slowest, up_mbps=figures[slowest].up_mbps, down_mbps=figures[slowest].down_mbps,
                farthest=farthest, latency_ms=figures[farthest].latency_ms,
            )  # fmt: skip
