"""What a device and a compute node have in common: being online under one id, and being in one run.

Announces itself once its subscriptions are granted, ends when another live process has its id, joins the run whose plan
names it (id and boot), leaves when the run ends, is cleared, or its orchestrator falls silent. What the role does in the
run it must never know.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl import PROTOCOL, VERSION, facts
from mpsl.errors import UsageError
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Outbound, Peer
from mpsl.machines.effects import CancelTimer, Publish, Run, SetTimer, Stop, Subscribe, Unsubscribe
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
from mpsl.machines.jobs import Leave, Prepare
from mpsl.machines.machine import Machine, as_json, from_json
from mpsl.messages import Counters, End, Fault, Joined, Message, Report
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan
from mpsl.topics import Address, BinaryTopic, Branch, ParticipantTopic, RunTopic, Topics

ANNOUNCE_AFTER_S = 0.3
"""How long after the subscription a process looks for another one of its id before it announces itself."""
RIVAL_S = 6.0
"""How long a status `online` of another boot is believed without its telemetry."""
TELEMETRY_S = 2.0
SILENCE_S = 45.0
"""How long a run goes on without a word from its orchestrator."""


class Participant(Machine):
    """Base of the device's and the hop's machine; `info` is what it tells about itself beside its run."""

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
    branch: ClassVar[Branch]
    role: ClassVar[str]

    def __init__(self, id: str, boot: str, topics: Topics, info: Mapping[str, Any], once: bool = False) -> None:
        super().__init__()
        self.id = id
        self.boot = boot
        self.topics = topics
        self.plan: Plan | None = None
        self.channel: Channel | None = None
        self.dropped: Counter[str] = Counter()
        self._info = dict(info)
        self._once = once
        self._online = False
        self._announced = False
        self._rival: str | None = None
        self._max_packet: int | None = None
        self._left: set[tuple[str, int]] = set()
        self._started = 0.0

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

    def job_done(self, event: JobDone) -> None:
        """A job of the role has ended."""
        raise NotImplementedError

    def job_failed(self) -> None:
        """A job of the role has raised; the orchestrator has been told."""

    # Being online

    @property
    def will(self) -> Publish:
        """The last will: what the broker publishes when this process vanishes."""
        return Publish(self._own("status"), as_json(self._status("lost")), 1, True)

    def _own(self, leaf: str) -> str:
        return self.topics.participant(self.branch, self.id, leaf)

    def _status(self, state: str) -> dict[str, Any]:
        return {"state": state, "role": self.role, "boot": self.boot, "protocol": PROTOCOL, "version": VERSION}

    def _connected(self, event: Connected) -> None:
        self._max_packet = event.max_packet
        filters = [self._own("status"), self._own("tele"), self._own("cmd"), self.topics.run("+", "plan")]
        self._do(Subscribe(tuple(filters + (self._run_filters(self.plan) if self.plan else []))))

    def _disconnected(self, event: Disconnected) -> None:
        self._online = False
        self._log("warning", "disconnected", reason=event.reason)

    def _subscribed(self, event: Subscribed) -> None:
        if self._announced:
            self._go_online()
        else:
            self._do(SetTimer("announce", self.now + ANNOUNCE_AFTER_S))

    def _announce(self) -> None:
        if self._rival is not None:
            # It said `online`, perhaps long ago: if it lives, its telemetry is due.
            self._do(SetTimer("rival", self.now + RIVAL_S))
            return
        self._announced = True
        self._started = self.now
        self._log("info", "online", id=self.id, boot=self.boot)
        self._go_online()

    def _go_online(self) -> None:
        self._online = True
        self._publish(self._own("status"), self._status("online"), retain=True)
        self._publish_info()
        self._telemetry()
        self._wake()

    def _publish_info(self) -> None:
        run = self.plan.run if self.plan else None
        self._publish(self._own("info"), {"boot": self.boot, "run": run, **self._info}, retain=True)

    def _telemetry(self) -> None:
        if self._online:
            run = self.plan.run if self.plan else None
            dropped = sum(self.dropped.values()) + (sum(self.channel.dropped.values()) if self.channel else 0)
            content = {"boot": self.boot, "run": run, "uptime_s": round(self.now - self._started, 1), "dropped": dropped}
            self._publish(self._own("tele"), content | self.progress())
            self._do(SetTimer("telemetry", self.now + TELEMETRY_S))

    def _stop_requested(self, event: StopRequested) -> None:
        self._quit(0, "asked to stop")

    def _quit(self, status: int, reason: str) -> None:
        if self._announced:
            self._publish(self._own("status"), self._status("offline"), retain=True)
        self._do(Stop(status, reason))
        self.stopped = True

    def _seen_own_id(self, leaf: str, payload: bytes) -> None:
        """Something on our own topics: ours come back to us, another boot's means another process of our id."""
        content = from_json(payload)
        other = content.get("boot") if content else None
        if content is None or not isinstance(other, str) or other == self.boot:
            return
        if leaf == "tele" or (leaf == "status" and content.get("state") == "online" and self._announced):
            # Both announced at once: the smaller boot gives way, so that one stays.
            if not self._announced or self.boot < other:
                self._announced = False
                self._quit(
                    1,
                    f"two processes have the id {self.id}: this one (boot {self.boot}) and another (boot {other}) that is online; "
                    "stop the other or choose another --id",
                )
        elif leaf == "status":
            self._rival = other if content.get("state") == "online" else None

    # Being in a run

    def _received(self, event: Received) -> None:
        match self.topics.parse(event.topic):
            case ParticipantTopic(branch, id, leaf) if branch == self.branch and id == self.id:
                self._seen_own_id(leaf, event.payload)
            case RunTopic(run, "plan"):
                self._seen_plan(run, event.topic, event.payload)
            case RunTopic(run, "state") if self.plan and run == self.plan.run:
                self._seen_state(event.payload)
            case BinaryTopic() as topic if self.plan and self.channel and topic.run == self.plan.run:
                self._binary(topic, event.payload)
            case _:
                self.dropped["topic"] += 1

    def _seen_plan(self, run: str, topic: str, payload: bytes) -> None:
        if not payload:
            if self.plan and self.plan.run == run:
                self._leave(1, "the run was cleared before it ended")
            return
        content = from_json(payload)
        if content is None:
            self.dropped["plan is no JSON object"] += 1
            return
        if content.get("protocol") != PROTOCOL:
            if self._names_us(content):
                self._quit(1, f"{topic}: the orchestrator speaks protocol {content.get('protocol')}, this process {PROTOCOL}; install the same version")
            return
        try:
            plan = facts.read(Plan, content, topic)
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
            self.channel.know(_peers(plan))

    def _names_us(self, content: Mapping[str, Any]) -> bool:
        """Whether a plan of another protocol, whose form we cannot know, seems to mean us."""
        devices = content.get("devices")
        seats = content.get("seats")
        named = isinstance(devices, dict) and self.id in devices
        return named or (isinstance(seats, list) and any(isinstance(s, dict) and s.get("node") == self.id for s in seats))

    def _join(self, plan: Plan) -> None:
        self.plan = plan
        chunk = min(plan.job.wire.chunk_bytes, (self._max_packet or CHUNK_BYTES * 1024) - 1024)
        limits = Limits(chunk_bytes=chunk, message=plan.message_bytes)
        self.channel = Channel(self.topics, plan.run, self.id, self.boot, plan.term, limits)
        self.channel.know(_peers(plan))
        self._log("info", "joining", run=plan.run, term=plan.term)
        self._do(Subscribe(tuple(self._run_filters(plan))), Run(Prepare(plan)))
        self._do(SetTimer("silence", self.now + SILENCE_S))
        self._publish_info()
        self.begin_run(plan)

    def _run_filters(self, plan: Plan) -> list[str]:
        return [self.topics.binary(plan.run, self.address(plan), "+", "+"), self.topics.run(plan.run, "state")]

    def _seen_state(self, payload: bytes) -> None:
        content = from_json(payload)
        if content is not None and content.get("state") == "lost":
            self._leave(1, "the orchestrator is lost")
        else:
            self._do(SetTimer("silence", self.now + SILENCE_S))

    def _leave(self, status: int, reason: str) -> None:
        plan = self.plan
        assert plan is not None
        self._log("info" if status == 0 else "warning", "left", run=plan.run, status=status, reason=reason)
        self._left.add((plan.run, plan.term))
        self._do(Unsubscribe(tuple(self._run_filters(plan))), CancelTimer("silence"), CancelTimer("link"), Run(Leave()))
        self.end_run()
        self.plan = None
        self.channel = None
        if self._once:
            self._quit(status, reason)
        elif self._online:
            self._publish_info()

    def _binary(self, topic: BinaryTopic, payload: bytes) -> None:
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
        if isinstance(message, Report) and self.channel:
            self._send(ORCHESTRATOR, Counters(message.round, self.channel.sent_bytes, self.channel.received_bytes))
        elif isinstance(message, End):
            if self.channel:
                self._post(self.channel.due(float("inf")))
            self._leave(0 if message.state == "done" else 1, message.reason or message.state)
        else:
            method = self.table().get(type(message))
            if method is None:
                self._stale(message, "not in this state")
            else:
                getattr(self, method)(source, message)

    def _stale(self, message: Message, why: str) -> None:
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
            case "announce":
                self._announce()
            case "rival":
                self._rival = None
                self._announce()
            case "telemetry":
                self._telemetry()
            case "silence" if self.plan:
                self._leave(1, f"no word from the orchestrator for {SILENCE_S:.0f} s")
            case "link" if self.channel:
                self._post(self.channel.due(self.now))
                self._wake()

    def _job_done(self, event: JobDone) -> None:
        if self.plan is not None and not isinstance(event.job, Leave):
            self.job_done(event)

    def _job_failed(self, event: JobFailed) -> None:
        self._log("error", "job-failed", job=type(event.job).__name__, reason=event.reason)
        if self.plan is not None:
            refused = isinstance(event.job, Prepare)
            self._send(ORCHESTRATOR, Joined(event.reason) if refused else Fault(event.reason))
            self.job_failed()


def _peers(plan: Plan) -> dict[str, Peer]:
    return {id: Peer(boot, address) for id, (boot, address) in plan.boots().items()}
