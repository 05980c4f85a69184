"""The orchestrator: gathers a fleet, seats it, runs the rounds, decides who contributes, commits, reports.

It must never see a sample or a label, and never take part in a batch update. Whom it waits for it says out loud.
"""

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from mpsl import facts
from mpsl.batches import batches_per_epoch, smallest_micro_batch
from mpsl.job import Job
from mpsl.link.channel import CHUNK_BYTES, Channel, Limits, Outbound, Peer
from mpsl.machines.census import Census, Presence
from mpsl.machines.effects import CancelTimer, Publish, Run, SetTimer, Stop, Subscribe, Write
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
    Finish,
    FoldUpdate,
    LaidOut,
    LayOut,
    ModelBuilt,
    RecordRound,
)
from mpsl.machines.machine import Machine, as_json
from mpsl.machines.members import Book, Member, Place
from mpsl.machines.seating import Seating, seat_everyone
from mpsl.messages import (
    Accept,
    Admit,
    Close,
    Closed,
    Commit,
    Committed,
    Counters,
    Discard,
    Discarded,
    End,
    Evaluate,
    Fault,
    Finished,
    Joined,
    Loaded,
    Message,
    Report,
    Score,
    Slice,
    Update,
)
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan, Seat
from mpsl.topics import Address, BinaryTopic, ParticipantTopic, Topics

WATCH_S = 1.0
HEARTBEAT_S = 5.0
STALL_S = 90.0
"""How long a step that waits for seats may go without hearing anything from any of them."""
LEAST_PATIENCE_S = 90.0
PATIENCE = 20.0
"""A device's deadline for its next batch, in the longest batch that was seen."""
FAREWELL_S = 5.0
BROKER_S = 10.0


class OrchestratorState(enum.Enum):
    """Where a run is."""

    GATHERING = "gathering"
    JOINING = "joining"
    LOADING = "loading"
    OPEN = "open"
    CLOSING = "closing"
    SAVING = "saving"
    COMMITTING = "committing"
    EVALUATING = "evaluating"
    REPORTING = "reporting"
    ENDING = "ending"


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
        Joined: "_joined",
        Fault: "_fault",
        Discarded: "_discarded",
        Counters: "_counters",
    }
    TABLE: ClassVar[Mapping[OrchestratorState, Mapping[type[Message], str]]] = {
        S.GATHERING: {},
        S.JOINING: {},
        S.LOADING: {Loaded: "_loaded"},
        S.OPEN: {Slice: "_slice", Update: "_update", Finished: "_finished"},
        S.CLOSING: {Slice: "_slice", Closed: "_closed"},
        S.SAVING: {},
        S.COMMITTING: {Committed: "_committed", Loaded: "_merged_loaded"},
        S.EVALUATING: {Score: "_score"},
        S.REPORTING: {},
        S.ENDING: {},
    }

    def __init__(self, job: Job, run: str, boot: str, topics: Topics, out: str = "") -> None:
        super().__init__()
        self.job = job
        self.run = run
        self.boot = boot
        self.topics = topics
        self.state = S.GATHERING
        self.census = Census()
        self.dropped: Counter[str] = Counter()
        self.plan: Plan | None = None
        self.channel: Channel | None = None
        self.members: dict[str, Member] = {}
        self.book: Book | None = None
        self.round = 0
        self.summary: dict[str, Any] = {
            "run": run,
            "state": "failed",
            "reason": "",
            "rounds": [],
            "accuracy": None,
            "loss": None,
            "seconds": 0.0,
        }
        self._model: ModelBuilt | None = None
        self._started: float | None = None
        self._online = False
        self._max_packet: int | None = None
        self._seats: dict[Address, Seat] = {}
        self._waiting_seats: set[Address] = set()
        self._seat_joined: set[Address] = set()
        self._part_bytes: dict[Address, int] = {}
        self._device_bytes = 0
        self._sum_bytes: dict[Address, int] = {}
        self._closed_by: dict[Address, Closed] = {}
        self._folding = 0
        self._exports: dict[Address | None, Callable[[Exported], None]] = {}
        self._device_slices: Exported | None = None
        self._heard_at = 0.0
        self._slowest_batch = 0.0
        self._seat_bytes: dict[str, tuple[int, int]] = {}
        self._bytes_before: dict[str, int] = {"device_up": 0, "device_down": 0, "nodes_out": 0}
        self._metrics: dict[str, Any] = {}
        self._published_state: dict[str, Any] = {}
        self._published_at = float("-inf")

    # Being online

    @property
    def will(self) -> Publish:
        """The last will: everyone in the run hears that it is over."""
        return Publish(self.topics.run(self.run, "state"), as_json({"state": "lost", "boot": self.boot}), 1, True)

    def _connected(self, event: Connected) -> None:
        self._online = True
        self._max_packet = event.max_packet
        filters = [self.topics.participant(branch, "+", leaf) for branch in ("dev", "node") for leaf in ("status", "info", "tele")]  # type: ignore[arg-type]
        self._do(
            Subscribe((*filters, self.topics.binary(self.run, ORCHESTRATOR, "+", "+"))),
            CancelTimer("broker"),
            SetTimer("watch", self.now + WATCH_S),
        )
        if self._started is None:
            self._started = self.now
            self._do(SetTimer("start", self.now + self.job.fleet.start_timeout_s), Run(BuildModel(self.job)))

    def _disconnected(self, event: Disconnected) -> None:
        self._online = False
        self._log("warning", "disconnected", reason=event.reason)
        if self._started is not None:
            self._do(SetTimer("broker", self.now + BROKER_S))

    def _subscribed(self, event: Subscribed) -> None:
        self._publish_state(force=True)

    def _stop_requested(self, event: StopRequested) -> None:
        self._fail("interrupted")

    # Saying what is going on

    def waiting_for(self) -> list[str]:
        """Whom (or what) the run waits for at this moment."""
        match self.state:
            case S.GATHERING:
                free = {branch: len(self.census.free(branch, self.now)) for branch in ("dev", "node")}  # type: ignore[arg-type]
                missing = (self.job.fleet.devices - free["dev"], "device"), (self.job.fleet.nodes - free["node"], "node")
                return [f"{count} more {what}{'s' if count > 1 else ''}" for count, what in missing if count > 0]
            case S.JOINING:
                nodes = [seat.node for address, seat in self._seats.items() if address not in self._seat_joined]
                return nodes + [m.id for m in self.members.values() if not m.joined and not m.refusal]
            case S.LOADING | S.CLOSING | S.COMMITTING:
                return [self._seats[address].node for address in sorted(self._waiting_seats)]
            case S.OPEN | S.EVALUATING if self.book:
                unclear = {self._name_of(a) for m in self.book.at(Place.DISCARDING) for a in m.unclear}
                return [member.id for member in self.book.at(Place.ADMITTED)] + sorted(unclear)
            case S.REPORTING:
                return [m.id for m in self._reporters() if m.counted < self.round]
            case S.ENDING if self.channel:
                return [self._name_of(address) for address in self.channel.waiting_for()]
        return []

    def snapshot(self) -> dict[str, Any]:
        """What run/<run>/state says: counts and names, nothing of the data."""
        book = self.book
        batches = {m.id: m.progress[0] for m in book.at(Place.ADMITTED)} if book else {}
        return {
            "state": self.state.value,
            "run": self.run,
            "round": self.round,
            "rounds": self.job.run.rounds,
            "admitted": sorted(batches),
            "batches": sum(batches.values()) + sum(m.update.batches for m in self.members.values() if m.update),
            "batches_in_round": self._batches_in_round(),
            "accepted": len(book.accepted) if book else 0,
            "loss": self.summary["loss"],
            "accuracy": self.summary["accuracy"],
            "waiting_for": self.waiting_for(),
        }

    def _batches_in_round(self) -> int:
        return sum(self._batches_of(m) for m in self.members.values() if m.place is not Place.OUT)

    def _batches_of(self, member: Member) -> int:
        run = self.job.run
        return batches_per_epoch(member.samples, run.batch_size) * run.local_epochs

    def _publish_state(self, force: bool = False) -> None:
        state = self.snapshot()
        changed = state != self._published_state and self.now - self._published_at >= WATCH_S
        if self._online and (force or changed or self.now - self._published_at >= HEARTBEAT_S):
            self._published_state, self._published_at = state, self.now
            self._publish(self.topics.run(self.run, "state"), state, retain=True)
            if self.plan is not None and self.state is S.JOINING:
                self._publish_plan()

    def _publish_plan(self) -> None:
        self._publish(self.topics.run(self.run, "plan"), facts.plain(self.plan), retain=True)

    def _name_of(self, address: Address) -> str:
        return self._seats[address].node if address in self._seats else address

    # What arrives

    def _received(self, event: Received) -> None:
        match self.topics.parse(event.topic):
            case ParticipantTopic() as topic:
                presence = self.census.note(topic, event.payload, self.now)
                if presence is None:
                    self.dropped[f"{topic.leaf} is malformed or old"] += bool(event.payload)
                else:
                    self._seen(presence)
            case BinaryTopic() as topic if self.channel and topic.run == self.run:
                self._heard_at = self.now
                messages, outbound = self.channel.receive(topic, event.payload, self.now)
                self._post(outbound)
                for message in messages:
                    self._deliver(topic.source, message)
                self._wake()
            case _:
                self.dropped["topic"] += 1

    def _deliver(self, source: str, message: Message) -> None:
        method = self.ALWAYS.get(type(message)) or self.TABLE[self.state].get(type(message))
        if method is None:
            self._stale(message, "not in this state")
        else:
            getattr(self, method)(source, message)

    def _stale(self, message: Message, why: str) -> None:
        self.dropped[f"{message.kind} {why}"] += 1

    def _send(self, to: Address, message: Message) -> None:
        if self.channel is not None:
            self._post(self.channel.send(to, message, self.now))
            self._wake()

    def _post(self, outbound: list[Outbound]) -> None:
        self._do(*(Publish(each.topic, each.payload, 0, False, each.properties) for each in outbound))

    def _wake(self) -> None:
        if self.channel is not None and (at := self.channel.next_due()) is not None:
            self._do(SetTimer("link", at))

    def _seen(self, presence: Presence) -> None:
        """Someone's status, info or telemetry has changed."""
        if self.state is S.GATHERING:
            self._gather()
            return
        if self.state is S.ENDING or self.plan is None:
            return
        if presence.branch == "node":
            seat = self.plan.seat_of(presence.id)
            if seat is not None and (not presence.online or presence.boot != seat.boot):
                state = presence.status.get("state") if presence.boot == seat.boot else "replaced by another process"
                self._fail(f"node {presence.id} (seat {seat.address}) is {state}")
            return
        member = self.members.get(presence.id)
        if member is None or not presence.status:
            return
        if presence.boot != member.boot:
            if presence.online and presence.info.get("boot") == presence.boot:
                self._device_came_back(member, presence.boot)
        elif not presence.online:
            self._device_gone(member, str(presence.status.get("state")))
        else:
            progress = (presence.telemetry.get("batch"), presence.telemetry.get("state"))
            if isinstance(progress[0], int) and progress != member.progress:
                if progress[0] > member.progress[0] and member.progress[1] == "training":
                    steps = progress[0] - member.progress[0]
                    self._slowest_batch = max(self._slowest_batch, (self.now - member.progress_at) / steps)
                member.progress = (progress[0], str(progress[1]))
                member.progress_at = self.now

    # Gathering and seating

    def _gather(self) -> None:
        """Seat everyone once the fleet is there and the model's facts are known."""
        other = self.census.of_other_protocol()
        if other is not None:
            theirs = other.status.get("protocol")
            self._fail(f"{other.branch}/{other.id} speaks protocol {theirs}, this orchestrator another; install the same version or use another --net")
            return
        nodes, devices = self.census.free("node", self.now), self.census.free("dev", self.now)
        if self._model is None or len(nodes) < self.job.fleet.nodes or len(devices) < self.job.fleet.devices:
            return
        fleet = Seating(nodes[: self.job.fleet.nodes], devices[: self.job.fleet.devices], self.run, self.boot)
        decided = seat_everyone(self.job, self._model, fleet)
        if isinstance(decided, str):
            self._fail(decided)
            return
        self.plan = decided
        self.members = {id: Member(id, entry.boot) for id, entry in decided.devices.items()}
        self._seats = {seat.address: seat for seat in decided.seats}
        chunk = min(self.job.wire.chunk_bytes, (self._max_packet or CHUNK_BYTES * 1024) - 1024)
        self.channel = Channel(self.topics, self.run, ORCHESTRATOR, self.boot, decided.term, Limits(chunk, message=decided.message_bytes))
        self._know()
        self.state = S.JOINING
        self._log("info", "seated", run=self.run, cuts=list(decided.cuts), admit=decided.admit, seats=[s.node for s in decided.seats])
        self._do(Run(LayOut(decided)))
        self._publish_plan()

    def _know(self) -> None:
        assert self.channel is not None and self.plan is not None
        self.channel.know({id: Peer(boot, address) for id, (boot, address) in self.plan.boots().items()})

    def _joined(self, source: str, message: Joined) -> None:
        assert self.plan is not None
        seat = self.plan.seat_of(source)
        if seat is not None:
            if message.refusal:
                self._fail(f"node {source} cannot take seat {seat.address}: {message.refusal}")
                return
            self._seat_joined.add(seat.address)
        else:
            member = self.members[source]
            member.joined, member.refusal = not message.refusal, message.refusal
            member.samples, member.test_batches = message.samples, message.test_batches
            if message.refusal:
                self._log("error", "refused", device=source, reason=message.refusal)
        self._all_joined()

    def _all_joined(self) -> None:
        assert self.plan is not None and self._model is not None
        if self.state is not S.JOINING or self._device_bytes == 0 or self.waiting_for():
            return
        refusals = [f"{m.id}: {m.refusal}" for m in self.members.values() if m.refusal]
        if len(self.members) - len(refusals) < self.job.quorum:
            self._fail(f"{len(refusals)} of {len(self.members)} devices cannot take part, quorum is {self.job.quorum}: {'; '.join(refusals)}")
            return
        alone = self._one_value_norm()
        if alone:
            self._fail(alone)
            return
        self._do(CancelTimer("start"))
        self._heard_at = self.now
        self.state = S.LOADING
        self._waiting_seats = set(self._seats)
        for address in self._seats:
            self._export(address, lambda exported, to=address: self._send_slices(to, exported))  # type: ignore[misc]
        self._maybe_loaded()

    def _one_value_norm(self) -> str:
        """A BatchNorm that would see one value per channel, as a reason; empty where there is none."""
        assert self._model is not None
        run = self.job.run
        for member in self.members.values():
            if member.samples and self._model.single_value_norms:
                least = smallest_micro_batch(member.samples, run.batch_size, run.micro_batches)
                if least == 1:
                    return (
                        f"{member.id} has {member.samples} samples: with batch_size = {run.batch_size} and micro_batches = "
                        f"{run.micro_batches} a micro-batch of 1 comes up, and {self._model.single_value_norms[0]} would see one value per "
                        "channel; choose a batch_size that leaves another rest"
                    )
        return ""

    def _export(self, address: Address | None, then: Callable[[Exported], None]) -> None:
        """Ask for the slices of a seat's committed part (None: the device's parts) and hand them to `then`."""
        self._exports[address] = then
        part = 0 if address is None else self._seats[address].stage
        self._do(Run(Export("global", self.round, 0, part)))

    def _send_slices(self, to: Address, exported: Exported) -> None:
        for each in exported.slices:
            self._send(to, each)

    def _loaded(self, source: str, message: Loaded) -> None:
        seat = self.plan.seat_of(source) if self.plan else None
        if seat is not None:
            self._waiting_seats.discard(seat.address)
        self._maybe_loaded()

    def _maybe_loaded(self) -> None:
        if self.state is S.LOADING and not self._waiting_seats:
            self._open_round()

    # The open round

    def _ready(self) -> list[str]:
        """Devices that can take part now."""
        return [
            m.id
            for m in self.members.values()
            if m.joined and m.cleared and not m.refusal and (p := self.census.get("dev", m.id)) and p.online and p.boot == m.boot
        ]

    def _open_round(self) -> None:
        assert self.plan is not None
        ready = self._ready()
        if len(ready) < self.job.quorum:
            self._fail(f"round {self.round + 1}: {len(ready)} devices are left, quorum is {self.job.quorum}; missing: {self._missing(ready)}")
            return
        self.round += 1
        self.state = S.OPEN
        self.book = Book(self.round, self.plan.admit, self.members, self.now)
        self.book.open_to(ready)
        self._device_slices = None
        if self.job.fleet.round_timeout_s is not None:
            self._do(SetTimer("round", self.now + self.job.fleet.round_timeout_s))
        self._log("info", "round-opened", run=self.run, term=self.plan.term, round=self.round, devices=len(ready))
        self._fetch_device_slices()
        self._publish_state(force=True)

    def _missing(self, present: list[str]) -> str:
        return ", ".join(sorted(set(self.members) - set(present)))

    def _fetch_device_slices(self) -> None:
        """The slices of the committed first and last parts, once a version; then admission goes on."""
        version = self.book.round - 1 if self.state is S.OPEN and self.book else self.round

        def keep(exported: Exported) -> None:
            self._device_slices = exported
            self._admit_more()

        self._exports[None] = keep
        self._do(Run(Export("global", version, 0, 0)))

    def _admit_more(self) -> None:
        book = self.book
        if book is None or self._device_slices is None or self.state not in (S.OPEN, S.EVALUATING):
            return
        while (member := book.next_admission()) is not None:
            member.place = Place.ADMITTED
            member.attempt += 1
            member.progress = (0, "")
            member.progress_at = member.admitted_at = self.now
            self._call(member, book)
        if book.decided:
            self._decided(book)

    def _call(self, member: Member, book: Book) -> None:
        assert self.plan is not None and self._device_slices is not None
        version = book.round
        if self.state is S.OPEN:
            version = book.round - 1
            admit = Admit(book.round, member.id, member.boot, member.attempt, self._batches_of(member))
            for address in self.plan.chain(member.id):
                self._send(address, admit)
            self._send(member.id, admit)
        else:
            self._send(member.id, Evaluate(book.round, member.attempt))
        if member.held != version:
            member.held = version
            self._send_slices(member.id, self._device_slices)
        if self.state is S.OPEN:
            member.held = -1  # training changes them

    def _slice(self, source: str, message: Slice) -> None:
        assert self.plan is not None
        seat = self.plan.seat_of(source)
        if seat is not None and message.purpose == "sum" and message.version == self.round and self.state is S.CLOSING:
            self._sum_bytes[seat.address] = self._sum_bytes.get(seat.address, 0) + message.tensor.nbytes
            self._do(Write(source, message))
            self._maybe_closed()
            return
        member = self.members.get(source)
        if member and message.purpose == "update" and message.attempt == member.attempt and member.place is Place.ADMITTED:
            member.arrived_bytes += message.tensor.nbytes
            member.progress_at = self.now
            self._do(Write(source, message))
            self._consider(member)
        else:
            self._stale(message, "of another attempt")

    def _update(self, source: str, message: Update) -> None:
        member = self.members.get(source)
        if member and member.place is Place.ADMITTED and message.attempt == member.attempt:
            member.update = message
            self._consider(member)
        else:
            self._stale(message, "of another attempt")

    def _finished(self, source: str, message: Finished) -> None:
        member = self.members.get(message.device)
        if member and self.plan and member.place is Place.ADMITTED and message.attempt == member.attempt:
            seat = self.plan.seat_of(source)
            if seat is not None and message.batches == self._batches_of(member):
                member.finished.add(seat.address)
                self._consider(member)
        else:
            self._stale(message, "of another attempt")

    def _consider(self, member: Member) -> None:
        """Accept a device whose update is whole and agrees with what every hop counted."""
        assert self.plan is not None and self.book is not None
        update = member.update
        if update is None or member.arrived_bytes != self._device_bytes:
            return
        chain = self.plan.chain(member.id)
        if update.batches != self._batches_of(member) or update.samples != member.samples:
            self._discard(member, f"made {update.batches} batches, {self._batches_of(member)} were due")
            return
        if not member.finished >= set(chain):
            return
        member.place = Place.ACCEPTED
        member.last_seconds = update.seconds
        self.book.accepted.append(member.id)
        accept = Accept(self.round, member.id, member.attempt, len(self.book.accepted), member.samples, update.batches)
        for address in chain:
            self._send(address, accept)
        self._send(member.id, accept)
        self._folding += 1
        self._do(Run(FoldUpdate(member.id, member.attempt, member.samples)))
        self._log("info", "accepted", run=self.run, round=self.round, device=member.id, number=len(self.book.accepted))
        self._admit_more()

    # Devices that go

    def _device_gone(self, member: Member, why: str) -> None:
        if member.place is Place.ADMITTED:
            self._discard(member, f"is {why}")
        elif member.place is Place.WAITING:
            self._log("warning", "left-out", device=member.id, reason=f"is {why}")
            member.place = Place.OUT
            self._after_loss()
        elif member.place is Place.DISCARDING:
            member.unclear.discard(member.id)
            self._maybe_clear(member)
        if not member.joined and self.state is S.JOINING and not member.refusal:
            member.refusal = f"is {why}"
            self._all_joined()

    def _device_came_back(self, member: Member, boot: str) -> None:
        """A new process of a known id: its former attempt is void; it joins again by the plan."""
        assert self.plan is not None
        self._device_gone(member, "replaced by another process")
        if self.channel is not None:
            self.channel.forget(member.id)
        member.boot = boot
        member.joined = member.refusal != "" and self.state is S.JOINING
        member.joined, member.refusal, member.cleared, member.held = False, "", True, -1
        self.plan = self.plan.with_boot(member.id, boot)
        self._know()
        self._publish_plan()

    def _discard(self, member: Member, why: str) -> None:
        """Leave a device out of the open round: everyone forgets its attempt, then its place is free."""
        assert self.plan is not None
        self._log("warning", "left-out", device=member.id, round=self.round, reason=why)
        member.place = Place.DISCARDING
        member.update = None
        member.held = -1
        presence = self.census.get("dev", member.id)
        there = presence is not None and presence.online and presence.boot == member.boot
        chain = self.plan.chain(member.id) if self.state is S.OPEN else []
        member.unclear = set(chain)
        member.cleared = False
        discard = Discard(self.round, member.id, member.attempt)
        if self.channel is not None and not there:
            self.channel.forget(member.id)
        for address in chain:
            self._send(address, discard)
        self._send(member.id, discard)
        self._maybe_clear(member)

    def _discarded(self, source: str, message: Discarded) -> None:
        member = self.members.get(message.device)
        if member is None or message.attempt != member.attempt:
            return
        if source == member.id:
            member.cleared = True
        seat = self.plan.seat_of(source) if self.plan else None
        if seat is not None:
            member.unclear.discard(seat.address)
            self._maybe_clear(member)

    def _maybe_clear(self, member: Member) -> None:
        if member.place is Place.DISCARDING and not member.unclear:
            member.place = Place.OUT
            self._after_loss()

    def _after_loss(self) -> None:
        book = self.book
        if book is None or self.state not in (S.OPEN, S.EVALUATING):
            return
        if self.state is S.OPEN and book.possible < self.job.quorum:
            out = [m.id for m in self.members.values() if m.place in (Place.OUT, Place.DISCARDING)]
            self._fail(f"round {self.round}: {book.possible} devices are left, quorum is {self.job.quorum}; left out: {', '.join(out)}")
            return
        self._admit_more()

    def _fault(self, source: str, message: Fault) -> None:
        member = self.members.get(source)
        if member is None:
            self._fail(f"node {source}: {message.reason}")
            return
        member.refusal = message.reason
        self._log("error", "device-fault", device=source, reason=message.reason)
        if member.place is Place.ADMITTED:
            self._discard(member, message.reason)

    # Closing and committing

    def _decided(self, book: Book) -> None:
        if self.state is S.EVALUATING:
            self._evaluated(book)
            return
        self._do(CancelTimer("round"))
        self.state = S.CLOSING
        self._heard_at = self.now
        self._waiting_seats = set(self._seats)
        self._sum_bytes = {}
        self._closed_by = {}
        for address in self._seats:
            served = [id for id in book.accepted if address in (self.plan.chain(id) if self.plan else [])]
            self._send(address, Close(self.round, len(served)))
        self._maybe_closed()

    def _closed(self, source: str, message: Closed) -> None:
        seat = self.plan.seat_of(source) if self.plan else None
        if seat is not None and message.round == self.round:
            self._closed_by[seat.address] = message
            self._maybe_closed()

    def _maybe_closed(self) -> None:
        book = self.book
        if self.state is not S.CLOSING or book is None:
            return
        for address, closed in self._closed_by.items():
            if self._sum_bytes.get(address, 0) == self._part_bytes[address]:
                self._waiting_seats.discard(address)
                if closed.weight != self._weight_at(address, book):
                    self._fail(f"seat {address} folded {closed.weight} samples, {self._weight_at(address, book)} were accepted")
                    return
        if not self._waiting_seats and self._folding == 0:
            self.state = S.SAVING
            digests = {address: closed.digest for address, closed in self._closed_by.items()}
            self._do(Run(Checkpoint(self.round, book.weight, digests)))

    def _weight_at(self, address: Address, book: Book) -> int:
        assert self.plan is not None
        return sum(self.members[id].samples for id in book.accepted if address in self.plan.chain(id))

    def _saved(self) -> None:
        """The round is on disk: it is committed from this moment on."""
        assert self.book is not None
        book = self.book
        self.state = S.COMMITTING
        self._heard_at = self.now
        self._waiting_seats = set(self._seats)
        self._metrics = {
            "round": self.round,
            "loss": book.loss(),
            "accuracy": None,
            "samples": book.weight,
            "seconds": self.now - book.opened_at,
            "devices": list(book.accepted),
        }
        self.summary["loss"] = self._metrics["loss"]
        self._log("info", "committed", run=self.run, round=self.round, devices=len(book.accepted), loss=round(book.loss(), 4))
        replicated = {seat.stage for seat in self._seats.values() if seat.replica > 0}
        for address, seat in self._seats.items():
            if seat.stage in replicated:
                self._export(address, lambda exported, to=address: self._send_slices(to, exported))  # type: ignore[misc]
            else:
                self._send(address, Commit(self.round, book.weight))
        self._maybe_committed()

    def _merged_loaded(self, source: str, message: Loaded) -> None:
        """A replica holds the merged part: now it may serve it."""
        seat = self.plan.seat_of(source) if self.plan else None
        if seat is not None and self.book is not None and message.version == self.round:
            self._send(seat.address, Commit(self.round, self.book.weight, merged=True))

    def _committed(self, source: str, message: Committed) -> None:
        seat = self.plan.seat_of(source) if self.plan else None
        if seat is not None and message.round == self.round:
            self._waiting_seats.discard(seat.address)
            self._maybe_committed()

    def _maybe_committed(self) -> None:
        if self.state is not S.COMMITTING or self._waiting_seats:
            return
        last = self.round == self.job.run.rounds
        if last or self.round % self.job.run.evaluate_every == 0:
            self._evaluate()
        else:
            self._report()

    # Evaluation and report

    def _evaluate(self) -> None:
        assert self.plan is not None
        self.state = S.EVALUATING
        self.book = Book(self.round, self.plan.admit, self.members, self.now, accepted=[])
        self.book.open_to([id for id in self._ready() if self.members[id].test_batches])
        self._device_slices = None
        self._fetch_device_slices()

    def _score(self, source: str, message: Score) -> None:
        member = self.members.get(source)
        if self.book and member and member.place is Place.ADMITTED and message.attempt == member.attempt:
            member.place = Place.ACCEPTED
            self.book.scores[source] = (message.correct, message.total)
            self._admit_more()
        else:
            self._stale(message, "of another attempt")

    def _evaluated(self, book: Book) -> None:
        correct = sum(score[0] for score in book.scores.values())
        total = sum(score[1] for score in book.scores.values())
        self._metrics["accuracy"] = self.summary["accuracy"] = correct / total if total else None
        self._report()

    def _reporters(self) -> list[Member]:
        ready = set(self._ready())
        return [m for m in self.members.values() if m.id in ready]

    def _report(self) -> None:
        """Ask everyone how many bytes the round took; who does not answer in time counts as before."""
        self.state = S.REPORTING
        self._seat_counted: set[str] = set()
        for member in self._reporters():
            self._send(member.id, Report(self.round))
        for address in self._seats:
            self._send(address, Report(self.round))
        self._do(SetTimer("report", self.now + FAREWELL_S))
        self._maybe_reported()

    def _counters(self, source: str, message: Counters) -> None:
        member = self.members.get(source)
        if member is not None:
            member.sent, member.received, member.counted = message.sent, message.received, message.round
        else:
            self._seat_bytes[source] = (message.sent, message.received)
            if self.state is S.REPORTING:
                self._seat_counted.add(source)
        self._maybe_reported()

    def _maybe_reported(self, late: bool = False) -> None:
        if self.state is not S.REPORTING:
            return
        seats_done = {seat.node for seat in self._seats.values()} <= self._seat_counted
        if late or (seats_done and all(m.counted == self.round for m in self._reporters())):
            self._do(CancelTimer("report"))
            self._record()

    def _record(self) -> None:
        now = {
            "device_up": sum(m.sent for m in self.members.values()),
            "device_down": sum(m.received for m in self.members.values()),
            "nodes_out": sum(sent for sent, _ in self._seat_bytes.values()),
        }
        metrics = self._metrics | {"bytes": {key: now[key] - self._bytes_before[key] for key in now}}
        self._bytes_before = now
        self.summary["rounds"].append(metrics)
        self._publish(self.topics.run(self.run, "metrics"), metrics)
        accuracy = metrics["accuracy"]
        self._log("info", "round", run=self.run, round=self.round, loss=round(metrics["loss"], 4), accuracy=accuracy, seconds=round(metrics["seconds"], 2))
        self._do(Run(RecordRound(metrics)))
        if self.round == self.job.run.rounds:
            self._end("done", "")
        else:
            self._open_round()

    # The end

    def _fail(self, reason: str) -> None:
        if self.state is not S.ENDING:
            self._log("error", "failed", run=self.run, round=self.round, reason=reason)
            self._end("failed", reason)

    def _end(self, state: Literal["done", "failed"], reason: str) -> None:
        self.state = S.ENDING
        for timer in ("start", "round", "report"):
            self._do(CancelTimer(timer))
        self.summary |= {"state": state, "reason": reason, "seconds": self.now - (self._started or self.now)}
        self._do(Run(Finish(self.summary)))
        if self.plan is not None:
            online = {id for id in self.members if (p := self.census.get("dev", id)) and p.online}
            for address in [*self._seats, *sorted(online)]:
                self._send(address, End(state, reason[:1000]))
        self._do(SetTimer("farewell", self.now + (FAREWELL_S if self._online else 0.0)))

    def _quit_if_heard(self, late: bool = False) -> None:
        """Stop once everyone has heard of the end, or has had the time to, and the summary is written."""
        if self.state is not S.ENDING or not self._summary_written:
            return
        if late or self.channel is None or self.channel.idle:
            if self._online:
                self._publish(self.topics.run(self.run, "plan"), None, retain=True)
                self._publish(self.topics.run(self.run, "state"), None, retain=True)
            self._do(Stop(0 if self.summary["state"] == "done" else 1, str(self.summary["reason"])))
            self.stopped = True

    _summary_written = False
    _seat_counted: ClassVar[set[str]] = set()

    # Timers and jobs

    def _timer_fired(self, event: TimerFired) -> None:
        match event.name:
            case "watch":
                self._watch()
                self._do(SetTimer("watch", self.now + WATCH_S))
            case "link" if self.channel:
                self._post(self.channel.due(self.now))
                self._wake()
            case "start":
                self._fail(f"not everyone was there after start_timeout_s = {self.job.fleet.start_timeout_s:g} s; waiting for: {', '.join(self.waiting_for())}")
            case "round" if self.state is S.OPEN and self.book:
                for member in self.book.at(Place.WAITING):
                    member.place = Place.OUT
                for member in self.book.at(Place.ADMITTED):
                    self._discard(member, f"was not done after round_timeout_s = {self.job.fleet.round_timeout_s:g} s")
                self._after_loss()
            case "report":
                self._maybe_reported(late=True)
            case "broker":
                self._fail(f"the broker was not reached again within {BROKER_S:.0f} s")
                self._quit_if_heard(late=True)
            case "farewell":
                self._farewell_over = True
        self._quit_if_heard(late=self._farewell_over)

    _farewell_over = False

    def _watch(self) -> None:
        """Deadlines of everyone who is waited for."""
        self._publish_state()
        if self.state is S.GATHERING:
            self._gather()
        if self.plan is None or self.state is S.ENDING:
            return
        for seat in self._seats.values():
            presence = self.census.get("node", seat.node)
            if presence is not None and not presence.alive(self.now):
                self._fail(f"node {seat.node} (seat {seat.address}) has said nothing for too long")
                return
        patience = max(LEAST_PATIENCE_S, PATIENCE * self._slowest_batch)
        for member in list(self.members.values()):
            presence = self.census.get("dev", member.id)
            if presence is not None and not presence.alive(self.now):
                self._device_gone(member, "silent")
            elif member.place is Place.ADMITTED and self.now - member.progress_at > patience:
                self._discard(member, f"made no progress for {patience:.0f} s")
        if self.state in (S.LOADING, S.CLOSING, S.COMMITTING) and self.now - self._heard_at > STALL_S:
            self._fail(f"{self.state.value}: nothing heard for {STALL_S:.0f} s; waiting for: {', '.join(self.waiting_for())}")

    def _job_done(self, event: JobDone) -> None:
        match event.job, event.result:
            case BuildModel(), ModelBuilt() as built:
                self._model = built
                if self.state is S.GATHERING:
                    self._gather()
            case LayOut(), LaidOut(device_bytes, part_bytes):
                self._device_bytes = device_bytes
                self._part_bytes = {address: part_bytes[seat.stage - 1] for address, seat in self._seats.items()}
                if self.state is S.JOINING:
                    self._all_joined()
            case Export(part=part), Exported() as exported:
                for address in [a for a in self._exports if (self._seats[a].stage if a else 0) == part]:
                    self._exports.pop(address)(exported)
            case FoldUpdate(), _:
                self._folding -= 1
                self._maybe_closed()
            case Checkpoint(), _ if self.state is S.SAVING:
                self._saved()
            case Finish(), _:
                self._summary_written = True
        self._quit_if_heard(late=self._farewell_over)

    def _job_failed(self, event: JobFailed) -> None:
        name = type(event.job).__name__
        if isinstance(event.job, Finish):
            self._log("error", "summary-not-written", reason=event.reason)
            self._summary_written = True
        self._fail(event.reason if isinstance(event.job, BuildModel) else f"{name}: {event.reason}")
        self._quit_if_heard(late=self._farewell_over)
