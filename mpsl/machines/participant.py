"""The common base of the device's and the compute node's process: it holds the sessions.

It routes what arrives to the session of its run, joins the runs whose plans name it (id and boot), and replaces a
session by one of a higher term. Presence, telemetry and self-measurement belong to the process. This file must never
know what a role does in a run.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from mpsl import PROTOCOL, facts
from mpsl.errors import UsageError
from mpsl.machines.effects import Run
from mpsl.machines.events import (
    Connected,
    Disconnected,
    Event,
    JobDone,
    JobFailed,
    Received,
    StopRequested,
    Subscribed,
    TimerFired,
    Warned,
)
from mpsl.machines.jobs import MeasureBlocks
from mpsl.machines.link_check import COMMAND, LinkCheck
from mpsl.machines.machine import from_json
from mpsl.machines.online import ANNOUNCE, Online
from mpsl.machines.participant_session import ParticipantSession, SessionEnd
from mpsl.machines.self_profile import SelfProfile
from mpsl.machines.session_id import SessionId
from mpsl.plan import Plan
from mpsl.topics import BinaryTopic, ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

AnySession = ParticipantSession[Any, Any]

MAX_REMEMBERED = 256
"""The number of left runs to remember, because an orchestrator may never clear its plan."""
MAX_DECLINED = 16
"""The number of plans to keep for which there was no room."""
MAX_UNANSWERED = 4
"""The number of links with overdue acknowledgements that telemetry names, the oldest first."""


class Participant(Online):
    """Base of the device's and the hop's machine; `once`: stop after the first run."""

    max_sessions: ClassVar[int]
    """The number of runs that the process may be in at a time."""

    def __init__(self, id: str, boot: str, topics: Topics, described: Mapping[str, Any], once: bool = False) -> None:
        super().__init__(id, boot, topics, described)
        self.sessions: dict[str, AnySession] = {}
        """By run, the oldest first."""
        self.dropped: Counter[str] = Counter()
        self._once = once
        self._left: dict[str, int] = {}
        """The highest term of each run that was left and whose plan is still there."""
        self._declined: dict[str, Plan] = {}
        """By run, a plan for which there was no room. It is tried again when a session ends."""
        self._links_used: dict[SessionId, int] = {}
        """The number of links of each session that may be joined again."""
        self._coding_s = 0.0
        self._profile = SelfProfile(boot, lambda job: self.emit(Run(job)))
        self._link_check = LinkCheck(self.identity, self.emit)

    # What a role adds

    @abstractmethod
    def named_in(self, plan: Plan) -> bool:
        """Whether the plan names this process, by id and boot."""

    @abstractmethod
    def session_for(self, plan: Plan, links_before: int) -> AnySession:
        """Make a session for the plan."""

    @abstractmethod
    def idle_progress(self) -> dict[str, Any]:
        """Return the telemetry fields of a process outside of a run."""

    # Presence

    @property
    def run_names(self) -> list[str]:
        """The runs of the process, the oldest first."""
        return list(self.sessions)

    def run_filters(self) -> list[str]:
        """The subscriptions of the sessions and of the link measurement."""
        of_sessions = [filter for session in self.sessions.values() for filter in session.filters]
        return of_sessions + self._link_check.filters()

    def telemetry(self) -> list[dict[str, Any]]:
        """Return each run's progress, the dropped messages, and the CPU seconds of codecs since the process began."""
        return [self._telemetry_of(session) for session in self.sessions.values()] or [
            {"run": None, "dropped": self.dropped.total(), "coding_s": self._coding_s, **self.idle_progress()}
        ]

    def _telemetry_of(self, session: AnySession) -> dict[str, Any]:
        session.now = self.now
        dropped = self.dropped.total() + session.dropped_total
        waiting = {"waiting_for": "orchestrator"} if session.is_orphaned else {}
        unanswered = [vars(each) | {"seconds": round(each.seconds)} for each in session.unanswered(self.now)]
        links = {"largest_arrived": session.channel.largest_arrived}
        overdue = {"unanswered": unanswered[:MAX_UNANSWERED]} if unanswered else {}
        said = {"run": session.id.run, "dropped": dropped, "coding_s": self._coding_s}
        return said | session.progress() | waiting | links | overdue

    def info(self) -> dict[str, Any]:
        """Return the self-measured times, once they have been asked for."""
        return self._profile.info()

    def back_online(self) -> None:
        """Have the links resend what was lost with the connection."""
        for session in self.sessions.values():
            session.wake()
        self._link_check.back_online()

    def validate(self) -> None:
        """Check that sessions are open and no more than allowed, and that links are measured only outside of a run."""
        assert len(self.sessions) <= self.max_sessions
        for run, session in self.sessions.items():
            assert session.id.run == run
            assert not session.over, f"{session.id} is over but still held"
            assert self._left.get(run, -1) < session.id.term
            session.validate()
        assert not (self.sessions and self._link_check.run)

    # Events

    def _take(self, event: Event) -> None:
        match event:
            case Received():
                self._received(event)
            case JobDone(job, result, session):
                self._coding_s += result.coding_s
                if isinstance(job, MeasureBlocks):
                    self._profile.done(result)
                    self.publish_info()
                elif (found := self._session_of(session)) is not None:
                    promised = found.promised_bytes
                    found.done(job, result, self.now)
                    if found.promised_bytes != promised:
                        self.publish_info()
            case JobFailed(job, reason, session):
                name = type(job).__name__
                self.log("error", "job-failed", run=session.run if session else None, job=name, reason=reason)
                if isinstance(job, MeasureBlocks):
                    self._profile.failed(reason)
                    self.publish_info()
                elif (found := self._session_of(session)) is not None:
                    found.failed(event, self.now)
            case TimerFired(name, None):
                self._online_timer(name)
            case TimerFired(name, session):
                if session == self._link_check.session_id:
                    self._link_check.timer_fired(name, self.now)
                elif (found := self._session_of(session)) is not None:
                    found.timer_fired(name, self.now)
            case Connected():
                self._connected(event)
            case Disconnected():
                self._disconnected(event)
            case Subscribed():
                self._subscribed()
            case Warned(text):
                self._warned(text)
            case StopRequested():
                self.quit(0, "asked to stop")
        self._remove_ended()

    def _session_of(self, id: SessionId | None) -> AnySession | None:
        session = self.sessions.get(id.run) if id else None
        return session if session is not None and session.id == id else None

    def _received(self, event: Received) -> None:
        match self.topics.parse(event.topic):
            case BinaryTopic() as topic if (session := self.sessions.get(topic.run)) is not None:
                session.received(topic, event.payload, self.now)
            case BinaryTopic() as topic if topic.run == self._link_check.run:
                self._link_check.receive(topic, event.payload, self.now)
            case ParticipantTopic(branch, id, "cmd") if branch == self.branch and id == self.id:
                self._commanded(event)
            case ParticipantTopic(branch, id, leaf) if id == self.id:
                self._seen_own_id(branch, leaf, event.payload)
            case RunTopic(run, "plan"):
                self._seen_plan(run, event.topic, event.payload)
            case RunTopic(run, "state") if run in self.sessions:
                content = _read_state(bytes(event.payload))
                if content is not None:
                    self.sessions[run].state_seen(content, self.now)
            case _:
                self.dropped["topic"] += 1

    def _commanded(self, event: Received) -> None:
        content = from_json(event.payload) or {}
        if content.get("do") == ANNOUNCE:
            self.commanded_to_announce(content)
            return
        if self.sessions:
            self.dropped["command in a run"] += 1
            return
        try:
            if content.get("do") == COMMAND:
                self._link_check.commanded(content, event.topic, self.now, self.max_packet)
            elif self._profile.commanded(content, event.topic):
                self.publish_info()
        except UsageError as error:
            self.dropped["command is malformed"] += 1
            self.log("warning", "command-refused", reason=str(error))

    # Plans

    def _seen_plan(self, run: str, topic: str, payload: Buffer) -> None:
        if not payload:
            if run in self.sessions:
                self.sessions[run].plan_cleared()
                self._remove_ended()
            self._left.pop(run, None)
            self._declined.pop(run, None)
            self._links_used = {id: links for id, links in self._links_used.items() if id.run != run}
            return
        content = from_json(payload)
        if content is None:
            self.dropped["plan is not a JSON object"] += 1
            return
        if not isinstance(content.get("protocol"), int):
            self.dropped["plan is malformed"] += 1
            return
        if content["protocol"] != PROTOCOL:
            if self._seems_named_in(content):
                theirs = content["protocol"]
                self.quit(
                    1,
                    f"{topic}: the orchestrator speaks protocol {theirs}, this process {PROTOCOL}; "
                    "install the same version",
                )
            return
        try:
            plan = _read_plan(bytes(payload), topic)
        except UsageError as error:
            self.dropped["plan is malformed"] += 1
            self.log("warning", "plan-refused", reason=str(error))
            return
        if plan.run == run and (run in self.sessions or plan.term > self._left.get(run, -1)):
            self._follow_plan(plan)

    def _follow_plan(self, plan: Plan) -> None:
        session = self.sessions.get(plan.run)
        if session is not None and plan.term < session.id.term:
            self.dropped["plan of an earlier term"] += 1
        elif session is not None and plan.term == session.id.term:
            if self.named_in(plan):
                session.replan(plan)
        elif session is not None:
            named = self.named_in(plan)
            why = "replaces it" if named else "has no place for us"
            session.finish(1, f"term {plan.term} of the run {why}", replaced=named)
            self._remove_ended(replaced=named)
            if named and not self.stopped:
                self._join(plan)
        elif self.named_in(plan):
            if len(self.sessions) < self.max_sessions:
                self._join(plan)
            else:
                self._decline(plan)

    def _decline(self, plan: Plan) -> None:
        """There is no room for the run: keep its plan; `info` names the present runs."""
        before = self._declined.get(plan.run)
        if before is None and len(self._declined) >= MAX_DECLINED:
            return
        self._declined[plan.run] = plan
        if before is None or before.term != plan.term:
            self.log("info", "busy", run=plan.run, term=plan.term, serving=self.run_names)
            self.publish_info()

    def _join(self, plan: Plan) -> None:
        self._link_check.stop()
        self._declined.pop(plan.run, None)
        links_before = self._links_used.pop(SessionId(plan.run, plan.term), 0)
        session = self.sessions[plan.run] = self.session_for(plan, links_before)
        if plan.job.security.require is not None and not self.is_private:
            session.refusal = (
                f'the job has [security] require = "{plan.job.security.require}", and {self.id} is connected to the '
                "broker without TLS; start it with --broker mqtts://…"
            )
        session.begin(self.now)
        self.publish_info()

    def _seems_named_in(self, content: Mapping[str, Any]) -> bool:
        """Whether a plan of another protocol, whose format is unknown, seems to name this process."""
        devices = content.get("devices")
        seats = content.get("seats")
        named = isinstance(devices, dict) and self.id in devices
        return named or (
            isinstance(seats, list) and any(isinstance(s, dict) and s.get("node") == self.id for s in seats)
        )

    def _remove_ended(self, replaced: bool = False) -> None:
        """Forget the sessions that are over. With `--once` the process ends with its first run."""
        for run, session in [(run, session) for run, session in self.sessions.items() if session.over]:
            ending = session.ending or SessionEnd(1, "the session ended")
            level, term = ("info" if ending.status == 0 or replaced else "warning"), session.id.term
            self.log(level, "left", run=run, term=term, status=ending.status, reason=ending.reason)  # type: ignore[arg-type]
            self._publish_last_telemetry(session)
            self.dropped += session.dropped + session.channel.dropped
            if ending.may_rejoin:
                self._links_used[session.id] = session.channel.links_used
                while len(self._links_used) > MAX_REMEMBERED:
                    del self._links_used[next(iter(self._links_used))]
            else:
                self._left[run] = term
                while len(self._left) > MAX_REMEMBERED:
                    del self._left[next(iter(self._left))]
            del self.sessions[run]
            if replaced or self.stopped:
                continue
            if self._once:
                self.quit(ending.status, ending.reason)
                continue
            self.publish_info()
            for plan in list(self._declined.values()):
                self._follow_plan(plan)

    def _publish_last_telemetry(self, session: AnySession) -> None:
        """Publish the last progress of a session that is now forgotten."""
        if self._online:
            said = {"boot": self.boot, "run": session.id.run, "uptime_s": round(self.now - self._started, 1)}
            self.publish_json(self._own("tele"), said | self._telemetry_of(session))


@lru_cache(maxsize=4)
def _read_plan(payload: bytes, topic: str) -> Plan:
    """Parse a plan. Cached, because a simulation has a thousand readers of the same one. Raises UsageError."""
    return facts.read(Plan, from_json(payload), topic)


@lru_cache(maxsize=4)
def _read_state(payload: bytes) -> Mapping[str, Any] | None:
    """Parse the state of a run. Cached, because a simulation has a thousand readers of the same one."""
    return from_json(payload)
