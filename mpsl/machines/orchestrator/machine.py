"""The orchestrator: gathers a fleet, seats it, runs the rounds, decides who contributes, commits, reports.

This file holds the facts that all phases share, the state table, and the way of events to the phase that they concern.
It must never see a sample or a label, and never take part in a batch update. Whom it waits for it says out loud.
"""

from collections import Counter
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

from mpsl.job import Job
from mpsl.link.channel import Channel, Outbound, Peer
from mpsl.machines.census import Census
from mpsl.machines.effects import CancelTimer, Effect, Publish, SetTimer, Subscribe
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
from mpsl.machines.jobs import (
    BuildModel,
    Checkpoint,
    Export,
    Exported,
    FindPlan,
    Finish,
    FoldUpdate,
    LaidOut,
    LayOut,
    ModelBuilt,
    PlanFound,
)
from mpsl.machines.machine import Machine, as_json
from mpsl.machines.members import Member, RoundLedger
from mpsl.machines.orchestrator.admission import Admission
from mpsl.machines.orchestrator.closing import Closing
from mpsl.machines.orchestrator.departures import Departures
from mpsl.machines.orchestrator.ending import Ending
from mpsl.machines.orchestrator.evaluation import Evaluation
from mpsl.machines.orchestrator.gathering import Gathering
from mpsl.machines.orchestrator.loading import Loading
from mpsl.machines.orchestrator.profiling import Profiling
from mpsl.machines.orchestrator.reporting import Reporting
from mpsl.machines.orchestrator.state import OrchestratorState
from mpsl.machines.orchestrator.status_publisher import StatusPublisher
from mpsl.machines.permissions import may_send
from mpsl.messages import (
    Closed,
    Committed,
    CopyFailed,
    Counters,
    Discarded,
    Fault,
    Finished,
    Joined,
    Loaded,
    Message,
    Score,
    Slice,
    Update,
)
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan, Seat
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import Address, BinaryTopic, Branch, ParticipantTopic, Topics

WATCH_S = 1.0
BROKER_S = 10.0

S = OrchestratorState


class OrchestratorMachine(Machine):
    """State machine of one run; see TABLE for what each state allows."""

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
    ALWAYS: ClassVar[Mapping[type[Message], str]] = {
        Joined: "gathering.joined",
        Fault: "departures.fault",
        CopyFailed: "departures.copy_failed",
        Discarded: "departures.discarded",
        Counters: "reporting.counters",
    }
    """Messages that every state allows: kind -> phase.method(source, message)."""
    TABLE: ClassVar[Mapping[OrchestratorState, Mapping[type[Message], str]]] = {
        S.GATHERING: {},
        S.PROFILING: {},
        S.JOINING: {},
        S.LOADING: {Loaded: "loading.loaded"},
        S.OPEN: {Slice: "admission.slice", Update: "admission.update", Finished: "admission.finished"},
        S.CLOSING: {Slice: "closing.slice", Closed: "closing.closed"},
        S.SAVING: {},
        S.COMMITTING: {Committed: "closing.committed", Loaded: "closing.merged_loaded"},
        S.EVALUATING: {Score: "evaluation.score"},
        S.REPORTING: {},
        S.ENDING: {},
    }

    def __init__(self, job: Job, run: str, boot: str, topics: Topics, planned: PlannedRun | None = None) -> None:
        super().__init__()
        self.job = job
        self.planned = planned
        """Who sits where, and whom the run waits for; None where the job leaves that to us."""
        self.run = run
        self.boot = boot
        self.topics = topics
        self.state = S.GATHERING
        self.online = False
        self.max_packet: int | None = None
        self.census = Census()
        self.dropped: Counter[str] = Counter()
        self.model: ModelBuilt | None = None
        self.plan: Plan | None = None
        self.seats: dict[Address, Seat] = {}
        self.members: dict[str, Member] = {}
        self.channel: Channel | None = None
        self.book: RoundLedger | None = None
        self.round = 0
        self.waiting_seats: set[Address] = set()
        """The seats that the present step still waits for."""
        self.heard_at = 0.0
        """When the last binary message of the run came in."""
        self.summary: dict[str, Any] = {
            "run": run,
            "state": "failed",
            "reason": "",
            "rounds": [],
            "accuracy": None,
            "loss": None,
            "seconds": 0.0,
        }
        self.status_publisher = StatusPublisher(self)
        self.gathering = Gathering(self)
        self.profiling = Profiling(self)
        self.loading = Loading(self)
        self.admission = Admission(self)
        self.departures = Departures(self)
        self.closing = Closing(self)
        self.evaluation = Evaluation(self)
        self.reporting = Reporting(self)
        self.ending = Ending(self)

    # Being online

    @property
    def will(self) -> Publish:
        """The last will: everyone in the run hears that it is over."""
        return Publish(self.topics.run(self.run, "state"), as_json({"state": "lost", "boot": self.boot}), 1, True)

    def _connected(self, event: Connected) -> None:
        self.online = True
        self.max_packet = event.max_packet
        filters = [
            self.topics.participant(branch, "+", leaf)
            for branch in ("dev", "node")
            for leaf in ("status", "info", "tele")
        ]
        self.do(
            Subscribe((*filters, self.topics.binary(self.run, ORCHESTRATOR, "+", "+"))),
            CancelTimer("broker"),
            SetTimer("watch", self.now + WATCH_S),
        )
        self.gathering.begin()

    def _disconnected(self, event: Disconnected) -> None:
        self.online = False
        self.log("warning", "disconnected", reason=event.reason)
        if self.gathering.started_at is not None:
            self.do(SetTimer("broker", self.now + BROKER_S))

    def _subscribed(self, event: Subscribed) -> None:
        self.status_publisher.publish(force=True)

    def _stop_requested(self, event: StopRequested) -> None:
        self.fail("interrupted")

    # What the phases need

    def do(self, *effects: Effect) -> None:
        """Want these effects, after those of this event so far."""
        self._do(*effects)

    def log(self, level: str, event: str, **facts: object) -> None:
        """One line for people."""
        self._log(level, event, **facts)

    def publish(self, leaf: str, content: Mapping[str, Any] | None, retain: bool = False) -> None:
        """Publish on a JSON topic of the run; None clears a retained one."""
        self._publish(self.topics.run(self.run, leaf), content, retain)

    def command(self, branch: Branch, id: str, content: Mapping[str, Any]) -> None:
        """Publish a command to a device or node."""
        self._publish(self.topics.participant(branch, id, "cmd"), content)

    def fail(self, reason: str) -> None:
        """The run cannot go on."""
        self.ending.fail(reason)

    def seat_of(self, source: str) -> Seat | None:
        """The seat of a node in this run."""
        return self.plan.seat_of(source) if self.plan else None

    def chain(self, device: str) -> list[Address]:
        """The seats that serve a device, from stage 1 on."""
        return self.plan.chain(device) if self.plan else []

    def set_peers(self) -> None:
        """Let the links accept exactly the boots of the plan."""
        assert self.channel is not None
        assert self.plan is not None
        self.channel.set_peers({id: Peer(boot, address) for id, (boot, address) in self.plan.boots().items()})

    def send(self, to: Address, message: Message) -> None:
        """Send over the link; before there is a plan nobody can be sent to."""
        if self.channel is not None:
            self.post(self.channel.send(to, message, self.now))
            self._wake()

    def send_slices(self, to: Address, exported: Exported) -> None:
        """Send a part."""
        for each in exported.slices:
            self.send(to, each)

    def drop(self, message: Message, why: str) -> None:
        """Drop a message that comes too late, too early or twice, and count it."""
        self.dropped[f"{message.kind} {why}"] += 1

    def post(self, outbound: list[Outbound]) -> None:
        """Publish what a link sends."""
        self._do(*(Publish(each.topic, each.payload, 0, False, each.properties) for each in outbound))

    def _wake(self) -> None:
        if self.channel is not None and (at := self.channel.next_due()) is not None:
            self._do(SetTimer("link", at))

    # What arrives

    def _received(self, event: Received) -> None:
        match self.topics.parse(event.topic):
            case ParticipantTopic() as topic:
                presence = self.census.note(topic, event.payload, self.now)
                if presence is None:
                    self.dropped[f"{topic.leaf} is malformed or old"] += bool(event.payload)
                elif self.state is S.GATHERING:
                    self.gathering.gather()
                elif self.state is S.PROFILING:
                    self.profiling.go_on()
                else:
                    self.departures.seen(presence)
                    if topic.leaf == "tele":
                        self.admission.seen(presence)
            case BinaryTopic() as topic if self.channel and topic.run == self.run:
                self.heard_at = self.now
                messages, outbound = self.channel.receive(topic, event.payload, self.now)
                self.post(outbound)
                for message in messages:
                    self._deliver(topic.source, message)
                self._wake()
            case BinaryTopic() as topic if self.plan is None and topic.run == self.run:
                self.profiling.links.receive(topic, event.payload)
            case _:
                self.dropped["topic"] += 1

    def _deliver(self, source: str, message: Message) -> None:
        method = self.ALWAYS.get(type(message)) or self.TABLE[self.state].get(type(message))
        if self.plan is None or not may_send(self.plan, source, ORCHESTRATOR, message):
            self.drop(message, "from one who may not send it")
        elif method is None:
            self.drop(message, "not in this state")
        else:
            attrgetter(method)(self)(source, message)

    # Timers and jobs

    def _timer_fired(self, event: TimerFired) -> None:
        match event.name:
            case "watch":
                self._watch()
                self._do(SetTimer("watch", self.now + WATCH_S))
            case "link" if self.channel:
                self.post(self.channel.due(self.now))
                self._wake()
            case "start":
                self.gathering.too_late()
            case "profiling":
                self.profiling.too_late()
            case "links":
                self.profiling.links.fired()
            case "round":
                self.admission.too_late()
            case "report":
                self.reporting.maybe_done(late=True)
            case "broker":
                self.fail(f"the broker was not reached again within {BROKER_S:.0f} s")
                self.ending.over()
            case "farewell":
                self.ending.over()
        self.ending.quit_if_heard()

    def _watch(self) -> None:
        self.status_publisher.publish()
        if self.state is S.GATHERING:
            self.gathering.note_strangers()
            self.gathering.gather()
        elif self.state is S.PROFILING:
            self.profiling.go_on()
        if self.plan is not None and self.state is not S.ENDING:
            self.departures.watch()

    def _job_done(self, event: JobDone) -> None:
        match event.job, event.result:
            case BuildModel(), ModelBuilt() as built:
                self.model = built
                if self.state is S.GATHERING:
                    self.gathering.gather()
            case FindPlan(), PlanFound(plan=found):
                self.profiling.planned(found)
            case LayOut(), LaidOut() as laid_out:
                self.loading.laid_out(laid_out)
            case Export(part=part), Exported() as exported:
                self.loading.exported(part, exported)
            case FoldUpdate(), _:
                self.closing.folded()
            case Checkpoint(), _ if self.state is S.SAVING:
                self.closing.saved()
            case Finish(), _:
                self.ending.summary_written = True
        self.ending.quit_if_heard()

    def _job_failed(self, event: JobFailed) -> None:
        name = type(event.job).__name__
        if isinstance(event.job, FindPlan):
            self.profiling.failed(event.reason)
            return
        if isinstance(event.job, Finish):
            self.log("error", "summary-not-written", reason=event.reason)
            self.ending.summary_written = True
        self.fail(event.reason if isinstance(event.job, BuildModel) else f"{name}: {event.reason}")
        self.ending.quit_if_heard()

    # For those who show a run

    def waiting_for(self) -> list[str]:
        """Whom (or what) the run waits for at this moment."""
        return self.status_publisher.waiting_for()

    def snapshot(self) -> dict[str, Any]:
        """Where the run is: counts and names."""
        return self.status_publisher.snapshot()
