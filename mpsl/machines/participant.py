"""What a device and a compute node have in common: being in one run.

Joins the run whose plan names it (id and boot), takes and sends its messages, leaves when the run ends, is cleared,
or its orchestrator falls silent. What the role does in the run it must never know.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

from mpsl import PROTOCOL, facts
from mpsl.errors import UsageError
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Outbound, Peer
from mpsl.machines.effects import CancelTimer, Publish, Run, SetTimer, Subscribe, Unsubscribe
from mpsl.machines.events import (
    Connected,
    Disconnected,
    JobDone,
    JobFailed,
    Received,
    StopRequested,
    Subscribed,
    TimerFired,
)
from mpsl.machines.jobs import Job, Leave, MeasureBlocks, Prepare, Store
from mpsl.machines.link_check import COMMAND, TIMER, LinkCheck
from mpsl.machines.machine import from_json
from mpsl.machines.online import Online
from mpsl.machines.permissions import may_send
from mpsl.machines.self_profile import SelfProfile
from mpsl.messages import Counters, End, Fault, Joined, Message, Report
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan
from mpsl.topics import Address, BinaryTopic, ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

SILENCE_S = 45.0
"""How long a run goes on without a word from its orchestrator."""


class Participant(Online):
    """Base of the device's and the hop's machine; `once`: stop after the first run."""

    EVENTS: ClassVar[Mapping[type, str]] = {
        Connected: "_connected",
        Disconnected: "_disconnected",
        Subscribed: "_subscribed",
        Received: "_received",
        JobDone: "_job_done",
        JobFailed: "_job_failed",
        TimerFired: "_timer_fired",
        StopRequested: "_stop_requested",
    }

    def __init__(self, id: str, boot: str, topics: Topics, info: Mapping[str, Any], once: bool = False) -> None:
        super().__init__(id, boot, topics, info)
        self.plan: Plan | None = None
        self.channel: Channel | None = None
        self.dropped: Counter[str] = Counter()
        self._once = once
        self._left: set[tuple[str, int]] = set()
        self._coding_s = 0.0
        self._leaving = 0
        """Runs that were left and whose last job has yet to end."""
        self._outcome: tuple[int, str] | None = None
        """How the run has ended, where the orchestrator's state said so before its `End` came."""
        self._profile = SelfProfile(boot, lambda job: self._do(Run(job)))
        self._link_check = LinkCheck(id, boot, topics, self._do, self._post)

    # What a role adds

    def table(self) -> Mapping[type[Message], str]:
        """The messages that the present state allows: kind -> method(source, message)."""
        raise NotImplementedError

    def progress(self) -> dict[str, Any]:
        """What the telemetry says of the role's work."""
        raise NotImplementedError

    def begin_run(self, plan: Plan) -> None:
        """A plan names us: `Prepare` has been asked for."""
        raise NotImplementedError

    def end_run(self) -> None:
        """Forget everything of the run."""
        raise NotImplementedError

    def address(self, plan: Plan) -> Address:
        """Where our binary messages arrive in this run."""
        raise NotImplementedError

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan has a place for this very process."""
        raise NotImplementedError

    def fault(self, job: Job, reason: str) -> Message:
        """What the orchestrator is told of a job that failed."""
        return Fault(reason)

    def job_done(self, event: JobDone) -> None:
        """A job of the role has ended."""
        raise NotImplementedError

    def job_failed(self, event: JobFailed) -> None:
        """A job of the role has raised; the orchestrator has been told."""

    # Being in a run

    @property
    def run_name(self) -> str | None:
        """The run that we are in."""
        return self.plan.run if self.plan else None

    def run_filters(self) -> list[str]:
        """Our address in the run, and what its orchestrator says; before it, what measuring needs."""
        plan = self.plan
        if plan is None:
            return self._link_check.filters()
        return [self.topics.binary(plan.run, self.address(plan), "+", "+"), self.topics.run(plan.run, "state")]

    def telemetry(self) -> dict[str, Any]:
        """The role's progress, how many messages were dropped, CPU seconds that codecs took since the process began."""
        dropped = sum(self.dropped.values()) + (sum(self.channel.dropped.values()) if self.channel else 0)
        return {"dropped": dropped, "coding_s": self._coding_s, **self.progress()}

    def back_online(self) -> None:
        """The links send again what was lost with the connection."""
        self._wake()
        self._link_check.wake()

    def _received(self, event: Received) -> None:
        match self.topics.parse(event.topic):
            case ParticipantTopic(branch, id, "cmd") if branch == self.branch and id == self.id:
                self._commanded(event)
            case ParticipantTopic(branch, id, leaf) if branch == self.branch and id == self.id:
                self._seen_own_id(leaf, event.payload)
            case RunTopic(run, "plan"):
                self._seen_plan(run, event.topic, event.payload)
            case RunTopic(run, "state") if self.plan and run == self.plan.run:
                self._seen_state(event.payload)
            case BinaryTopic() as topic if self.plan and self.channel and topic.run == self.plan.run:
                self._binary(topic, event.payload)
            case BinaryTopic() as topic if topic.run == self._link_check.run:
                self._link_check.receive(topic, event.payload, self.now)
            case _:
                self.dropped["topic"] += 1

    def _commanded(self, event: Received) -> None:
        if self.plan is not None:
            self.dropped["command in a run"] += 1
            return
        content = from_json(event.payload) or {}
        try:
            if content.get("do") == COMMAND:
                self._link_check.commanded(content, event.topic, self.now, self._max_packet)
            elif self._profile.commanded(content, event.topic):
                self._tell()
        except UsageError as error:
            self.dropped["command is malformed"] += 1
            self._log("warning", "command-refused", reason=str(error))

    def _tell(self) -> None:
        """Publish `info`, where the connection is there; otherwise being back does."""
        if self._online:
            self._publish_info()

    def info(self) -> dict[str, Any]:
        """How fast we are, once we have been asked."""
        return self._profile.info()

    def _seen_plan(self, run: str, topic: str, payload: Buffer) -> None:
        if not payload:
            if self.plan and self.plan.run == run:
                self._leave(*(self._outcome or (1, "the run was cleared before it ended")))
            self._left = {(left, term) for left, term in self._left if left != run}
            return
        content = from_json(payload)
        if content is None:
            self.dropped["plan is no JSON object"] += 1
            return
        if not isinstance(content.get("protocol"), int):
            self.dropped["plan is malformed"] += 1
            return
        if content["protocol"] != PROTOCOL:
            if self._names_us(content):
                theirs = content.get("protocol")
                self._quit(
                    1,
                    f"{topic}: the orchestrator speaks protocol {theirs}, this process {PROTOCOL}; "
                    "install the same version",
                )
            return
        try:
            plan = _read_plan(bytes(payload), topic)
        except UsageError as error:
            self.dropped["plan is malformed"] += 1
            self._log("warning", "plan-refused", reason=str(error))
            return
        if plan.run != run or not self.named_in(plan) or (plan.run, plan.term) in self._left:
            return
        if self.plan is None:
            self._join(plan)
        elif plan.run == self.plan.run and plan.term == self.plan.term and self.channel:
            self.plan = plan
            self.channel.set_peers(_peers(plan))

    def _names_us(self, content: Mapping[str, Any]) -> bool:
        """Whether a plan of another protocol, whose form we cannot know, seems to mean us."""
        devices = content.get("devices")
        seats = content.get("seats")
        named = isinstance(devices, dict) and self.id in devices
        return named or (
            isinstance(seats, list) and any(isinstance(s, dict) and s.get("node") == self.id for s in seats)
        )

    def _join(self, plan: Plan) -> None:
        self._link_check.stop()
        self.plan = plan
        chunk = min(plan.job.wire.chunk_bytes, (self._max_packet or CHUNK_BYTES * 1024) - 1024)
        limits = Limits(chunk_bytes=chunk, message=plan.message_bytes)
        self.channel = Channel(self.topics, plan.run, self.id, self.boot, plan.term, limits)
        self.channel.set_peers(_peers(plan))
        self._log("info", "joining", run=plan.run, term=plan.term)
        self._do(Subscribe(tuple(self.run_filters())), Run(Prepare(plan)))
        self._do(SetTimer("silence", self.now + SILENCE_S))
        self._publish_info()
        self.begin_run(plan)

    def _seen_state(self, payload: Buffer) -> None:
        content = _read_state(bytes(payload))
        if content is None or self.plan is None:
            return
        if content.get("state") == "lost":
            if content.get("boot") == self.plan.orchestrator:
                self._leave(1, "the orchestrator is lost")
            return
        if content.get("outcome") in ("done", "failed"):
            # `End` is on its way; where it gets lost with the orchestrator's connection, the plan's end is ours too.
            done = content["outcome"] == "done"
            self._outcome = (0, "done") if done else (1, str(content.get("reason")))
        self._do(SetTimer("silence", self.now + SILENCE_S))

    def _leave(self, status: int, reason: str) -> None:
        plan = self.plan
        assert plan is not None
        self._log("info" if status == 0 else "warning", "left", run=plan.run, status=status, reason=reason)
        self._left.add((plan.run, plan.term))
        self._telemetry()  # how far it came: what the run was is forgotten now
        self._leaving += 1
        self._outcome = None
        self._do(Unsubscribe(tuple(self.run_filters())), CancelTimer("silence"), CancelTimer("link"), Run(Leave()))
        self.end_run()
        self.plan = None
        self.channel = None
        if self._once:
            self._quit(status, reason)
        else:
            self._tell()

    def _binary(self, topic: BinaryTopic, payload: Buffer) -> None:
        assert self.channel is not None
        messages, outbound = self.channel.receive(topic, payload, self.now)
        self._post(outbound)
        for message in messages:
            if self.channel is None:
                return
            self._deliver(topic.source, message)
        self._wake()

    def _deliver(self, source: str, message: Message) -> None:
        """Give a message to the method that the present state allows it; the rest is counted and dropped."""
        if self.plan is None or not may_send(self.plan, source, self.address(self.plan), message):
            self._drop(message, "from one who may not send it")
        elif isinstance(message, Report) and self.channel:
            self._send(ORCHESTRATOR, Counters(message.round, self.channel.sent_bytes, self.channel.received_bytes))
        elif isinstance(message, End):
            if self.channel:
                self._post(self.channel.due(float("inf")))
            self._leave(0 if message.state == "done" else 1, message.reason or message.state)
        else:
            method = self.table().get(type(message))
            if method is None:
                self._drop(message, "not in this state")
            else:
                getattr(self, method)(source, message)

    def _drop(self, message: Message, why: str) -> None:
        self.dropped[f"{message.kind} {why}"] += 1

    def _send(self, to: Address, message: Message) -> None:
        assert self.channel is not None
        self._post(self.channel.send(to, message, self.now))
        self._wake()

    def _post(self, outbound: list[Outbound]) -> None:
        self._do(*(Publish(each.topic, each.payload, 0, False, each.properties) for each in outbound))

    def _wake(self) -> None:
        """Set the timer of the links to when they next want it."""
        if self.channel is not None and (at := self.channel.next_due()) is not None:
            self._do(SetTimer("link", at))

    def _timer_fired(self, event: TimerFired) -> None:
        match event.name:
            case "silence" if self.plan:
                self._leave(*(self._outcome or (1, f"no word from the orchestrator for {SILENCE_S:.0f} s")))
            case "link" if self.channel:
                self._post(self.channel.due(self.now))
                self._wake()
            case name if name == TIMER:
                self._link_check.fired(self.now)
            case name:
                self._online_timer(name)

    def _job_done(self, event: JobDone) -> None:
        self._coding_s += event.result.coding_s
        if isinstance(event.job, MeasureBlocks):
            self._profile.done(event.result)
            self._tell()
        elif not self._is_of_former_run(event.job):
            self.job_done(event)

    def _job_failed(self, event: JobFailed) -> None:
        self._log("error", "job-failed", job=type(event.job).__name__, reason=event.reason)
        if isinstance(event.job, MeasureBlocks):
            self._profile.failed(event.reason)
            self._tell()
        elif not self._is_of_former_run(event.job):
            refused = isinstance(event.job, Prepare)
            self._send(ORCHESTRATOR, Joined(event.reason) if refused else self.fault(event.job, event.reason))
            if not isinstance(event.job, Store):
                self.job_failed(event)

    def _is_of_former_run(self, job: Job) -> bool:
        """Jobs end in the order in which they were asked for: all up to `Leave` belong to the run that was."""
        former = self._leaving > 0
        self._leaving -= isinstance(job, Leave)
        return former or self.plan is None


@lru_cache(maxsize=4)
def _read_plan(payload: bytes, topic: str) -> Plan:
    """The plan in a payload; a simulation has a thousand readers of the same one. Raises UsageError."""
    return facts.read(Plan, from_json(payload), topic)


@lru_cache(maxsize=4)
def _read_state(payload: bytes) -> Mapping[str, Any] | None:
    """The state of a run; a simulation has a thousand readers of the same one."""
    return from_json(payload)


def _peers(plan: Plan) -> dict[str, Peer]:
    return {id: Peer(boot, address) for id, (boot, address) in plan.boots().items()}
