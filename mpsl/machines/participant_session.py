"""The common base of a device's and a node's session in one run under one term.

It accepts messages by the role's transition table, answers reports, and ends when the orchestrator ends the run, is
lost or falls silent. It must never know what the role does in the run.
"""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

from mpsl.link.channel import Limits
from mpsl.machines.effects import Effect, Log, Subscribe, Unsubscribe
from mpsl.machines.events import JobFailed
from mpsl.machines.jobs import Prepare, Result, Store, WorkerJob
from mpsl.machines.permissions import may_send
from mpsl.machines.session import LINK_TIMER, Session, chunk_limit, peers_of
from mpsl.machines.session_id import SessionId
from mpsl.machines.tables.table import StateMachine, Table
from mpsl.messages import Counters, End, Fault, Joined, Message, Report
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan
from mpsl.topics import Address, BinaryTopic, Topics
from mpsl.wire import Buffer

SILENCE_S = 45.0
"""How long the orchestrator may be silent, both on `state` and on the link, before the session reports it."""
SILENCE_TIMER = "silence"

S = TypeVar("S", bound=enum.Enum)
O = TypeVar("O", bound=enum.Enum)  # noqa: E741  (an outcome)


@dataclass(frozen=True)
class Identity:
    """The identity of a process: id, boot, and the topics of its net."""

    id: str
    boot: str
    topics: Topics


@dataclass(frozen=True)
class SessionEnd:
    """How a session ended: the exit status of a `--once` process, and why."""

    status: int
    reason: str
    may_rejoin: bool = False
    """Whether the process joins again if the plan is still retained, because the two had only lost contact."""


class ParticipantSession(Session, ABC, Generic[S, O]):
    """The session of `plan` in the process `identity`; `ending` is set once it is over."""

    yields = False
    """Whether the weights that it sends yield to activations and gradients."""

    def __init__(
        self,
        identity: Identity,
        plan: Plan,
        address: Address,
        table: Table[S, O],
        emit: Callable[[Effect], None],
        max_packet: int | None,
        links_before: int = 0,
    ) -> None:
        chunk_bytes = chunk_limit(plan.job.wire.chunk_bytes, max_packet)
        limits = Limits(chunk_bytes, message=plan.message_bytes, yielding=self.yields)
        session_id = SessionId(plan.run, plan.term)
        super().__init__(session_id, identity.topics, identity.id, identity.boot, limits, emit, links_before)
        self.set_peers(peers_of(plan))
        self.identity = identity
        self.plan = plan
        self.address = address
        self.now = 0.0
        self.promised_bytes = 0
        self.ending: SessionEnd | None = None
        self.refusal = ""
        """Why this process takes no part in the run though the plan names it: the orchestrator is told, and decides."""
        self._states = StateMachine(table)
        self._orphaned_at: float | None = None
        """Since when the session waits for an orchestrator that is lost or silent."""
        self._told: SessionEnd | None = None
        """How the run has ended, if the orchestrator's state said so before its `End` arrived."""
        self._orchestrator_lost = False

    # What a role adds

    @abstractmethod
    def enter(self, state: S) -> O | None:
        """Enter a state. Returns its outcome if the state ends at once."""

    @abstractmethod
    def take(self, source: str, message: Message) -> O | None:
        """Take a message that the present state allows."""

    @abstractmethod
    def job_done(self, job: WorkerJob, result: Result) -> O | None:
        """A job of this session has ended."""

    @abstractmethod
    def job_failed(self, job: WorkerJob) -> None:
        """A job of this session has raised; the orchestrator has been told."""

    @abstractmethod
    def fault(self, event: JobFailed) -> Message:
        """Return the message that reports a failed job to the orchestrator."""

    @abstractmethod
    def progress(self) -> dict[str, Any]:
        """Return the telemetry fields about the role's work."""

    @abstractmethod
    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold."""

    # Membership

    @property
    def state(self) -> S:
        """The present state of the role."""
        return self._states.state

    @property
    def filters(self) -> tuple[str, ...]:
        """The subscriptions of the session: its address, and its orchestrator's state."""
        topics, run = self.identity.topics, self.id.run
        return (topics.binary(run, self.address, "+", "+"), topics.run(run, "state"))

    def begin(self, now: float) -> None:
        """Subscribe, and have the part built."""
        self.now = now
        self.log(Log("info", "joining", {}))
        self._emit(Subscribe(self.filters))
        if self.refusal:
            self.log(Log("error", "refused", {"reason": self.refusal}))
            self.tell(Fault(self.refusal))
        else:
            self.start_job(Prepare(self.plan))
        self.set_timer(SILENCE_TIMER, now + SILENCE_S)

    def finish(self, status: int, reason: str, may_rejoin: bool = False, replaced: bool = False) -> None:
        """Leave the run; `replaced`: a session of a higher term follows at once."""
        if self.ending is None:
            self.ending = SessionEnd(status, reason, may_rejoin)
            self._emit(Unsubscribe(self.filters))
            self.end(replaced)

    def replan(self, plan: Plan) -> None:
        """Take the plan of this term again, perhaps with other boots."""
        if plan.revision >= self.plan.revision:
            self.plan = plan
            self.set_peers(peers_of(plan))

    def plan_cleared(self) -> None:
        """The orchestrator has cleared its plan, so the run is over."""
        told = self._told or SessionEnd(1, "the run was cleared before it ended")
        self.finish(told.status, told.reason)

    def state_seen(self, content: Mapping[str, Any], now: float) -> None:
        """Take the orchestrator's `state`."""
        self.now = now
        if content.get("state") == "lost":
            if content.get("boot") == self.plan.orchestrator and not self._orchestrator_lost:
                self._orchestrator_lost = True
                if self._orphaned_at is None:
                    self.set_timer(SILENCE_TIMER, now + self.plan.job.fleet.grace_s)
            return
        self._orchestrator_lost = False
        self._find_orchestrator()
        if content.get("outcome") in ("done", "failed"):
            # `End` follows. If it is lost with the orchestrator's connection, clearing the plan ends the session.
            done = content["outcome"] == "done"
            self._told = SessionEnd(0, "done") if done else SessionEnd(1, str(content.get("reason")))
        self.set_timer(SILENCE_TIMER, now + SILENCE_S)

    # Events

    def received(self, topic: BinaryTopic, payload: Buffer, now: float) -> None:
        """Take a payload on the session's address."""
        self.now = now
        for message in self.receive(topic, payload, now):
            if self.over:
                return
            self._deliver(topic.source, message)
        if self.is_orphaned and not self._orchestrator_lost and self.channel.heard_at.get(ORCHESTRATOR) == now:
            self._find_orchestrator()
            self.set_timer(SILENCE_TIMER, now + SILENCE_S)
        self.wake()

    def timer_fired(self, name: str, now: float) -> None:
        """A timer of this session has fired."""
        self.now = now
        if name == LINK_TIMER:
            self.flush(now)
        elif name == SILENCE_TIMER and now < (silent_at := self._silent_at()):
            self.set_timer(SILENCE_TIMER, silent_at)
        elif name == SILENCE_TIMER:
            self._miss_orchestrator()

    @property
    def is_orphaned(self) -> bool:
        """Whether the session waits for an orchestrator that is lost or silent."""
        return self._orphaned_at is not None

    def _find_orchestrator(self) -> None:
        """The orchestrator is alive: end a wait for it."""
        if self._orphaned_at is not None:
            self.log(Log("info", "orchestrator-back", {"seconds": round(self.now - self._orphaned_at, 1)}))
            self._orphaned_at = None

    def _miss_orchestrator(self) -> None:
        """Wait for the orchestrator, which may be restarted. Leave once patience_s is over or the run has ended."""
        patience = self.plan.job.fleet.patience_s
        what = "is lost" if self._orchestrator_lost else f"has been silent for {SILENCE_S:.0f} s"
        if self._told is not None:
            self.finish(self._told.status, self._told.reason, self._told.may_rejoin)
        elif self._orphaned_at is None:
            self._orphaned_at = self.now
            self.log(Log("warning", "orchestrator-missing", {"reason": what, "patience_s": patience}))
            self.set_timer(SILENCE_TIMER, self.now + patience)
        else:
            self.finish(1, f"the orchestrator {what}, and did not come back within patience_s = {patience:g} s", True)

    def _silent_at(self) -> float:
        """Return until when the link shows that the orchestrator is alive. A last will or a reported end overrules it.

        Bytes in flight to the orchestrator extend the wait, at most to twice its length.
        """
        heard_at = self.channel.heard_at.get(ORCHESTRATOR)
        if heard_at is None or self._orchestrator_lost or self._told is not None:
            return self.now
        return heard_at + SILENCE_S + min(SILENCE_S, self.channel.seconds_under_way(ORCHESTRATOR))

    def done(self, job: WorkerJob, result: Result, now: float) -> None:
        """A job has ended."""
        self.now = now
        self._follow(self.job_done(job, result))

    def failed(self, event: JobFailed, now: float) -> None:
        """A job has failed: tell the orchestrator."""
        self.now = now
        self.tell(Joined(event.reason) if isinstance(event.job, Prepare) else self.fault(event))
        if not isinstance(event.job, Store):
            self.job_failed(event.job)

    def tell(self, message: Message) -> None:
        """Send a message to the orchestrator."""
        self.send(ORCHESTRATOR, message, self.now)

    def _deliver(self, source: str, message: Message) -> None:
        if not may_send(self.plan, source, self.address, message):
            self.drop(message, "from a wrong sender")
        elif isinstance(message, Report):
            self.tell(Counters(message.round, self.channel.sent_bytes, self.channel.received_bytes))
        elif isinstance(message, End):
            self.flush(inf)
            self.finish(0 if message.state == "done" else 1, message.reason or message.state)
        elif not self._states.takes(message):
            self.drop(message, "not in this state")
        else:
            self._follow(self.take(source, message))

    def _follow(self, outcome: O | None) -> None:
        """Follow outcomes from state to state until one waits for something."""
        while outcome is not None:
            outcome = self.enter(self._states.advance(outcome))
