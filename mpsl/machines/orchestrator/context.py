"""What every phase of a run works with: the shared state, the census, the session, and methods that emit effects.

It decides nothing. Phases reach each other only through it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mpsl import facts
from mpsl.link.channel import Limits
from mpsl.machines.census import Census
from mpsl.machines.effects import CancelTimer, Effect, Log, LogLevel, Publish, Run, SetTimer
from mpsl.machines.jobs import Exported, WorkerJob
from mpsl.machines.machine import as_json
from mpsl.machines.orchestrator.run_state import RunState
from mpsl.machines.session import Session, chunk_limit, peers_of
from mpsl.machines.session_id import SessionId
from mpsl.messages import Message
from mpsl.names import ORCHESTRATOR
from mpsl.topics import Address, Branch, Topics


class RunContext:
    """One run at its orchestrator; `emit` receives its effects."""

    def __init__(self, state: RunState, topics: Topics, emit: Callable[[Effect], None]) -> None:
        self.state = state
        self.topics = topics
        self.emit = emit
        self.census = Census(state.run, state.job.fleet.grace_s, state.job.fleet.silence_s)
        self.session: Session | None = None
        """The session of the newest plan."""
        self.now = 0.0
        self.online = False
        self.is_plan_known = False
        """Whether this process knows, since it connected, which plan is retained; it may be a successor's."""
        self.max_packet: int | None = None
        self._timers: dict[str, float] = {}
        """When the timers of the run are due."""
        self.dropped: Counter[str] = Counter()

    # Sessions

    @property
    def chunk_bytes(self) -> int:
        """The maximum size of a chunk that this process sends."""
        return chunk_limit(self.state.job.wire.chunk_bytes, self.max_packet)

    def begin_session(self) -> None:
        """End the present session and begin that of the plan."""
        self.end_session()
        plan, state = self.state.need_plan(), self.state
        limits = Limits(self.chunk_bytes, message=plan.message_bytes)
        id = SessionId(state.run, plan.term)
        self.session = Session(id, self.topics, ORCHESTRATOR, state.boot, limits, self.emit)
        self.session.set_peers(peers_of(plan))

    def replan(self) -> None:
        """Take over a changed plan into the links and the open round."""
        if self.state.ledger is not None:
            self.state.ledger.plan = self.state.need_plan()
        if self.session is not None:
            self.session.set_peers(peers_of(self.state.need_plan()))

    def end_session(self) -> None:
        """End the session, with its timers and jobs."""
        if self.session is not None:
            self.session.end()
            self.session = None

    def heard(self, session: Session, source: str) -> None:
        """Count what a peer sent over a link as a sign of its life."""
        if session.channel.heard_at.get(source) == self.now:
            self.census.heard(source, session.channel.peers[source].boot, self.now)

    # Effects of the phases

    def send(self, to: Address, message: Message) -> None:
        """Send over the link. Before there is a plan, there is no link and nothing is sent."""
        if self.session is not None:
            self.session.send(to, message, self.now)

    def send_slices(self, to: Address, exported: Exported) -> None:
        """Send all slices of a part."""
        for each in exported.slices:
            self.send(to, each)

    def start_job(self, job: WorkerJob) -> None:
        """Ask the worker for a job of the session, or of the run if there is no session yet."""
        self.emit(Run(job, self.session.id if self.session else None))

    def start_run_job(self, job: WorkerJob) -> None:
        """Ask the worker for a job that stays valid under a new plan."""
        self.emit(Run(job))

    def set_timer(self, name: str, seconds: float) -> None:
        """Set a timer of the run."""
        self._timers[name] = self.now + seconds
        self.emit(SetTimer(name, self.now + seconds))

    def cancel_timer(self, name: str) -> None:
        """Cancel a timer of the run."""
        self._timers.pop(name, None)
        self.emit(CancelTimer(name))

    def timer_fired(self, name: str) -> None:
        """A timer of the run has fired."""
        self._timers.pop(name, None)

    # Deadlines of others

    def excuse(self, seconds: float) -> None:
        """Nobody could be heard for `seconds`, which was not their fault: their deadlines are later."""
        state = self.state
        self.census.excuse(seconds)
        state.progress_at += seconds
        for member in state.members.values():
            member.progress_at += seconds
            member.batch_at += seconds
            member.discarded_at += seconds

    def stood_still(self, seconds: float) -> None:
        """This process was suspended for `seconds`, or its clock has jumped: every deadline is later."""
        self.excuse(seconds)
        if self.state.held_up_since is not None:
            self.state.held_up_since += seconds
        for name, at in self._timers.items():
            self._timers[name] = at + seconds
            self.emit(SetTimer(name, at + seconds))

    def log(self, level: LogLevel, event: str, **said: object) -> None:
        """Write one line for people."""
        where = {"run": self.state.run, "term": self.state.term}
        self.emit(Log(level, event, {**where, **said}))

    def publish(self, leaf: str, content: Mapping[str, Any] | None, retain: bool = False) -> None:
        """Publish on a JSON topic of the run; None clears a retained one.

        A retained publish replaces one that waits to be sent on the topic. A clearing follows it instead.
        """
        payload = b"" if content is None else as_json(content)
        subject = "" if retain and content is not None else None
        self.emit(Publish(self.topics.run(self.state.run, leaf), payload, 1, retain, subject=subject))

    def publish_plan(self) -> None:
        """Publish the plan, retained."""
        self.publish("plan", facts.plain(self.state.need_plan()), retain=True)

    def command(self, branch: Branch, id: str, content: Mapping[str, Any]) -> None:
        """Publish a command to a device or node. It replaces a waiting one of the same kind."""
        self.emit(Publish(self.topics.participant(branch, id, "cmd"), as_json(content), 1, subject=str(content["do"])))

    def fail(self, reason: str) -> None:
        """End the run as failed. Only the first reason is kept."""
        self.state.failure = self.state.failure or reason

    def lose_seat(self, node: str, why: str, unfit: bool = False) -> None:
        """Give up the node of a seat. `unfit`: this process may take no other seat in this run either."""
        if unfit and (seat := self.state.seat_of(node)) is not None:
            self.state.unfit_nodes[node] = seat.boot
        self.state.lost_nodes.setdefault(node, why)

    def drop(self, message: Message, why: str) -> None:
        """Count a message that is late, early or repeated, or whose sender may not send it."""
        self.dropped[f"{message.kind} {why}"] += 1
