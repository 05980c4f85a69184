"""The orchestrator's machine: passes events to the phase that they concern, and follows the table between phases.

It must never see a sample or a label, nor take part in a batch update. It always reports which participants it is
waiting for. Its transitions are in `tables/run.py`; every phase is a file of its own.
"""

from collections.abc import Mapping
from typing import Any

from mpsl.job import Job
from mpsl.machines.effects import Publish, SetTimer, Subscribe
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
)
from mpsl.machines.jobs import Export, Exported
from mpsl.machines.machine import Machine, as_json
from mpsl.machines.online import ANNOUNCE
from mpsl.machines.orchestrator.admissions import Admissions
from mpsl.machines.orchestrator.closing import Averaging, Closing
from mpsl.machines.orchestrator.committing import Committing
from mpsl.machines.orchestrator.context import RunContext
from mpsl.machines.orchestrator.departures import Departures
from mpsl.machines.orchestrator.disk_retry import DISK_TIMER, DiskRetry
from mpsl.machines.orchestrator.durability import Durability
from mpsl.machines.orchestrator.ending import Ending
from mpsl.machines.orchestrator.evaluation import Evaluation
from mpsl.machines.orchestrator.gathering import Gathering
from mpsl.machines.orchestrator.growth import Growth
from mpsl.machines.orchestrator.joining import Joining
from mpsl.machines.orchestrator.loading import Loading
from mpsl.machines.orchestrator.newcomers import Newcomers
from mpsl.machines.orchestrator.open_round import OpenRound
from mpsl.machines.orchestrator.part_exports import PartExports
from mpsl.machines.orchestrator.phase import Phase
from mpsl.machines.orchestrator.profiling import Profiling
from mpsl.machines.orchestrator.reporting import Reporting
from mpsl.machines.orchestrator.reseating import Reseating
from mpsl.machines.orchestrator.run_state import RunState
from mpsl.machines.orchestrator.savepoints import Savepoints
from mpsl.machines.orchestrator.status_publisher import StatusPublisher
from mpsl.machines.orchestrator.succession import superseded_by
from mpsl.machines.orchestrator_jobs import (
    BetterPlan,
    BuildModel,
    Checkpoint,
    FindBetterPlan,
    RecordRound,
    TakeSums,
    WriteSavepoint,
)
from mpsl.machines.permissions import may_send
from mpsl.machines.session import LINK_TIMER
from mpsl.machines.tables.run import SEATED_STATES, TABLE, OrchestratorState, RunOutcome
from mpsl.machines.tables.table import StateMachine
from mpsl.machines.unfinished import Unfinished
from mpsl.messages import CopyFailed, Counters, Discarded, Fault, Joined, Message, Sent, Slice
from mpsl.names import ORCHESTRATOR
from mpsl.planning.plan_file import PlannedRun
from mpsl.topics import BinaryTopic, ParticipantTopic, RunTopic, Topics
from mpsl.wire import Buffer

WATCH_S = 1.0
PLAN_S = 2.0
"""How long a retained plan of the run may take to arrive after the subscription."""
FROZEN_S = 3.0
"""A periodic check that is this late means that this process was suspended."""

S = OrchestratorState


class OrchestratorMachine(Machine):
    """State machine of one run."""

    def __init__(
        self,
        job: Job,
        run: str,
        boot: str,
        topics: Topics,
        planned: PlannedRun | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        super().__init__()
        self.boot = boot
        self.topics = topics
        self.run_state = RunState(job, run, boot, planned, unfinished)
        self.context = context = RunContext(self.run_state, topics, self.emit)
        self._states = StateMachine(TABLE)
        self._departures = Departures(context)
        self._newcomers = Newcomers(context)
        self._disk = DiskRetry(context)
        self._exports = PartExports(context)
        self._admissions = admissions = Admissions(context, self._exports)
        self._gathering = Gathering(context)
        self._profiling = Profiling(context)
        self._joining = Joining(context)
        self._durability = durability = Durability(context)
        self._savepoints = savepoints = Savepoints(context, durability)
        self._growth = growth = Growth(context)
        self._reporting = Reporting(context, admissions, durability, growth)
        self._ending = Ending(context)
        closing = Closing(context, durability, savepoints)
        self._phases: Mapping[OrchestratorState, Phase] = {
            S.GATHERING: self._gathering,
            S.PROFILING: self._profiling,
            S.JOINING: self._joining,
            S.LOADING: Loading(context, self._exports),
            S.OPEN: OpenRound(context, admissions, self._departures, durability, savepoints),
            S.CLOSING: closing,
            S.AVERAGING: Averaging(context, closing),
            S.COMMITTING: Committing(context, self._exports, durability),
            S.EVALUATING: Evaluation(context, admissions, self._departures),
            S.REPORTING: self._reporting,
            S.RESEATING: Reseating(context, durability, savepoints, growth),
            S.ENDING: self._ending,
        }
        self._status = StatusPublisher(context, admissions)
        self._offline_at: float | None = None
        self._watched_at: float | None = None

    @property
    def state(self) -> OrchestratorState:
        """The present state of the run."""
        state: OrchestratorState = self._states.state
        return state

    @property
    def phase(self) -> Phase:
        """The phase of the present state."""
        return self._phases[self._states.state]

    @property
    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        return self.run_state.summary

    @property
    def will(self) -> Publish:
        """The last will: it tells all participants that the orchestrator is lost."""
        state = {"state": "lost", "boot": self.boot}
        return Publish(self.topics.run(self.run_state.run, "state"), as_json(state), 1, True)

    def validate(self) -> None:
        """Check that the shared state agrees with the phase and with itself."""
        run, state = self.run_state, self.state
        if self.stopped:
            return
        assert run.waiting_seats <= run.seats.keys() or state is S.ENDING
        assert (self.context.session is None) or run.plan is not None
        if state not in (S.GATHERING, S.PROFILING, S.RESEATING, S.ENDING):
            assert self.context.session is not None
            assert self.context.session.id.term == run.term == run.need_plan().term
        if run.ledger is not None:
            run.ledger.validate()
        if state in (S.OPEN, S.EVALUATING) and run.ledger is not None:
            assert run.need_ledger().training is (state is S.OPEN)
        assert run.folding >= 0
        assert len(run.summary["rounds"]) == run.reported <= run.durable <= run.committed <= run.round
        assert run.committed - run.durable <= 1
        assert run.evaluated <= run.committed
        assert run.savepoint is None or run.savepoint.round == run.durable + 1
        assert not run.lost_nodes or state in (S.AVERAGING, S.ENDING)

    # Events

    def _take(self, event: Event) -> None:
        self.context.now = self.now
        match event:
            case Received(topic, payload):
                self._received(topic, payload)
            case JobDone():
                self._job_done(event)
            case JobFailed():
                self._job_failed(event)
            case TimerFired():
                self._timer_fired(event)
            case Connected(max_packet):
                self._connected(max_packet)
            case Disconnected(reason):
                self._disconnected(reason)
            case Subscribed():
                self._publish_status(force=True)
                self.emit(SetTimer("plan", self.now + PLAN_S))
                if self.run_state.is_laid_out and self.context.session is not None and self.state is not S.ENDING:
                    # The broker may have restarted and lost its retained messages.
                    self.context.publish_plan()
            case StopRequested():
                self.context.fail("interrupted")
        if not self.stopped:
            self._follow()

    def _follow(self) -> None:
        """Follow the outcomes of phases until one is None; stop once the end is acknowledged."""
        while (outcome := self._outcome()) is not None:
            self._states.advance(outcome)
            self.phase.enter()
            if self.state in (S.OPEN, S.RESEATING, S.ENDING):
                self._publish_status(force=True)
        if self.state is S.ENDING and (stop := self._ending.goodbye()) is not None:
            self.emit(stop)
            self.stopped = True

    def _outcome(self) -> RunOutcome | None:
        if self.state is S.ENDING:
            return None
        if self.run_state.failure:
            self._profiling.links.abandon()
            return RunOutcome.FAILED
        outcome = self.phase.outcome()
        if outcome is None and self.run_state.lost_nodes and self.state in SEATED_STATES:
            return RunOutcome.SEAT_LOST
        return outcome

    def _connected(self, max_packet: int | None) -> None:
        self.context.online, self.context.max_packet = True, max_packet
        if self._offline_at is not None:
            self.context.excuse(self.now - self._offline_at)
            self._offline_at = None
        filters = [
            self.topics.participant(branch, "+", leaf)
            for branch in ("dev", "node")
            for leaf in ("status", "info", "tele")
        ]
        self.emit(Subscribe((*filters, *self._own_filters())), SetTimer("watch", self.now + WATCH_S))
        self.context.cancel_timer("broker")
        if self._watched_at is None:
            self._watched_at = self.now
        self._gathering.connected()

    def _own_filters(self) -> tuple[str, str]:
        """Filters for messages to this run, and for plans of other orchestrators of it."""
        run = self.run_state.run
        return self.topics.binary(run, ORCHESTRATOR, "+", "+"), self.topics.run(run, "plan")

    def _disconnected(self, reason: str) -> None:
        if self.context.online:  # further attempts that fail are in the log of whoever makes them
            self.log("warning", "disconnected", reason=reason)
        self.context.online = self.context.is_plan_known = False
        self.context.census.connection_lost()
        self._offline_at = self.now if self._offline_at is None else self._offline_at
        if self.run_state.started_at is not None:
            due = self._offline_at + self.run_state.job.fleet.patience_s
            self.context.set_timer("broker", due - self.now)

    # Messages

    def _received(self, topic: str, payload: Buffer) -> None:
        match self.topics.parse(topic):
            case ParticipantTopic() as parsed:
                presence = self.context.census.note(parsed, payload, self.now)
                if presence is None:
                    self.context.dropped["presence"] += 1
                    return
                if self.state is not S.ENDING:
                    if self.context.session is not None:
                        self._departures.seen(presence)
                        if self.state is not S.JOINING:
                            self._newcomers.seen(presence)
                    self.phase.seen(presence)
            case RunTopic(run, "plan") if run == self.run_state.run:
                stop = superseded_by(self.context, self.boot, payload, self.state is S.ENDING)
                if stop is not None:
                    self.emit(stop)
                    self.stopped = True
            case BinaryTopic() as parsed if self.context.session is not None and parsed.run == self.run_state.run:
                self._received_binary(parsed, payload)
            case BinaryTopic() as parsed if parsed.run == self.run_state.run:
                self._profiling.links.receive(parsed, payload)
            case _:
                self.context.dropped["topic"] += 1

    def _received_binary(self, topic: BinaryTopic, payload: Buffer) -> None:
        session = self.context.session
        assert session is not None
        before = session.channel.progress
        messages = session.receive(topic, payload, self.now)
        self.context.heard(session, topic.source)
        if messages or session.channel.progress != before:
            self.run_state.progress_at = self.now
        for message in messages:
            if self.context.session is session:
                self._deliver(topic.source, message)
        session.wake()

    def _deliver(self, source: str, message: Message) -> None:
        if self.run_state.plan is None or not may_send(self.run_state.plan, source, ORCHESTRATOR, message):
            self.context.drop(message, "from a wrong sender")
            return
        if not self._states.takes(message):
            self.context.drop(message, "not in this state")
            return
        match message:
            case Joined():
                self._joining.joined(source, message)
            case Fault():
                self._departures.fault(source, message)
            case CopyFailed():
                self._departures.copy_failed(source, message)
            case Discarded():
                self._departures.discarded(source, message)
            case Counters():
                self._reporting.counters(source, message)
            case Slice(purpose="part" | "savepoint") | Sent(purpose="part" | "savepoint"):
                if (seat := self.run_state.seat_of(source)) is not None:
                    taker = self._durability if message.purpose == "part" else self._savepoints
                    taker.take(seat, message)
            case _:
                self.phase.take(source, message)
        self._follow()

    # Timers and jobs

    def _timer_fired(self, event: TimerFired) -> None:
        session = self.context.session
        if event.session is None:
            self.context.timer_fired(event.name)
        if session is not None and event.session == session.id:
            if event.name == LINK_TIMER:
                session.flush(self.now)
        elif event.session is not None or event.name == "links":
            self._profiling.links.timer_fired(event.session)
        elif event.name == "watch":
            self._watch()
            self.emit(SetTimer("watch", self.now + WATCH_S))
        else:
            if event.name == "plan":
                self.context.is_plan_known = self.context.online
            if event.name == DISK_TIMER:
                self._disk.again()
            if event.name == "broker":
                limit = self.run_state.job.fleet.patience_s
                self.context.fail(f"the broker was not reached again within patience_s = {limit:g} s")
                self._follow()
            self.phase.timer_fired(event.name)

    def _watch(self) -> None:
        late = self.now - self._watched_at - WATCH_S if self._watched_at is not None else 0.0
        if late > FROZEN_S:
            # This process was suspended, so all participants seem to have been silent.
            self.context.stood_still(late)
            self.log("warning", "stood-still", run=self.run_state.run, term=self.run_state.term, seconds=round(late, 1))
        self._watched_at = self.now
        self._publish_status()
        for branch, id, boot in self.context.census.unannounced():
            self.context.command(branch, id, {"do": ANNOUNCE, "boot": boot})
        self.phase.watch()
        if self.state is S.OPEN:
            self._growth.watch()
        if self.context.session is not None and self.context.online and self.state is not S.ENDING:
            self._departures.watch(self.state, self.phase.waiting_for(), self.phase.awaited_seats())

    def _job_done(self, event: JobDone) -> None:
        self._disk.done(event.job)
        match event.job, event.result:
            case Export() as request, Exported() as exported:
                self._exports.done(request, exported)
            case (Checkpoint() | RecordRound()) as job, result:
                self._durability.job_done(job, result)
            case TakeSums() as job, _:
                self._savepoints.sums_taken(job)
            case WriteSavepoint() as job, _:
                self._savepoints.written(job)
            case FindBetterPlan() as job, BetterPlan() as better:
                self._growth.found(job, better)
            case job, result:
                self.phase.job_done(job, result)

    def _job_failed(self, event: JobFailed) -> None:
        if isinstance(event.job, TakeSums | WriteSavepoint):
            self._savepoints.failed(event.reason)
            return
        if isinstance(event.job, FindBetterPlan):
            self._growth.failed(event.job, event.reason)
            return
        if event.is_disk and self._disk.failed(event):
            return
        if not self.phase.job_failed(event.job, event.reason):
            name = type(event.job).__name__
            self.context.fail(event.reason if isinstance(event.job, BuildModel) else f"{name}: {event.reason}")

    # Progress

    def _publish_status(self, force: bool = False) -> None:
        self._status.publish(self.state, self.waiting_for(), force)

    def waiting_for(self) -> list[str]:
        """Return the participants (or things) that the run waits for at this moment."""
        return self._disk.waiting_for() or self.phase.waiting_for()

    def snapshot(self) -> dict[str, Any]:
        """Return the progress of the run: counts and names."""
        return self._status.snapshot(self.state, self.waiting_for())
