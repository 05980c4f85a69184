"""The hop's session: one part on a compute node, a copy for every admitted device, a queue that keeps the worker busy.

The schedule chooses the next job whenever the worker is free. Only the orchestrator decides which devices count.
The transitions are in `tables/hop.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from mpsl.machines.arrivals import Arrivals, PartArrivals
from mpsl.machines.copy_progress import CopyProgress
from mpsl.machines.effects import Effect
from mpsl.machines.events import JobFailed
from mpsl.machines.jobs import (
    Backward,
    CheckCopy,
    CommitPart,
    CopyPart,
    DropCopy,
    Encoded,
    Export,
    Exported,
    Fold,
    Forward,
    ForwardProbe,
    Prepare,
    Prepared,
    Result,
    WorkerJob,
)
from mpsl.machines.participant_session import Identity, ParticipantSession
from mpsl.machines.ready_queue import ReadyQueue
from mpsl.machines.tables.hop import TABLE, HopOutcome, HopState
from mpsl.machines.work_time import WorkTime
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Close,
    Closed,
    Commit,
    Committed,
    CopyFailed,
    Discard,
    Discarded,
    Fault,
    Finished,
    Gradient,
    Joined,
    Keep,
    Loaded,
    Message,
    Probe,
    Restored,
    RestoreSum,
    Sent,
    Slice,
    TakeSavepoint,
    Ticket,
)
from mpsl.plan import Plan, Seat


class HopSession(ParticipantSession[HopState, HopOutcome]):
    """One seat in one run."""

    yields = True
    """A committed part goes to the checkpoint while the next round is under way."""

    def __init__(
        self,
        identity: Identity,
        plan: Plan,
        seat: Seat,
        rank: Callable[[WorkerJob], int],
        emit: Callable[[Effect], None],
        max_packet: int | None,
        links_before: int = 0,
    ) -> None:
        # A hop is addressed by its seat, because another node may take the seat over.
        super().__init__(identity, plan, seat.address, TABLE, emit, max_packet, links_before)
        self.copies: dict[str, CopyProgress] = {}
        self.early: dict[str, tuple[int, list[Activation]]] = {}
        """Activations that arrived before their admission, by device; only those of the newest attempt."""
        self.early_probes: dict[str, Probe] = {}
        self._seat = seat
        self._rank = rank
        self._max_copies = 0
        self._queue = ReadyQueue()
        self._known_attempts: dict[str, int] = defaultdict(int)
        self._arrivals = PartArrivals()
        self._version = -1
        self._restoring: RestoreSum | None = None
        self._restored = Arrivals()  # of the sum of a savepoint
        self._memory: Mapping[str, int] = {}
        self._max_queued = 0
        self._work_time = WorkTime()
        self._folded = 0
        self._folded_samples = 0

    def progress(self) -> dict[str, Any]:
        """Return state, seat, present and most copies, the worker's time, and the peak bytes of each use of memory."""
        return {
            "state": self.state.value,
            "seat": self._seat.address,
            "copies": len(self.copies),
            "most_copies": self._max_copies,
            **self._work_time.facts(self.now),
            "memory": {**self._memory, "queues": self._max_queued} if self._memory else None,
        }

    def validate(self) -> None:
        """Check that all copies belong to devices of the plan, and have made no more steps than are due."""
        assert self.copies.keys() <= self.plan.devices.keys()
        assert all(copy.steps <= copy.batches for copy in self.copies.values())
        assert len(self.copies) <= self._max_copies
        assert self._folded >= 0
        assert self._queue.tensor_bytes >= 0
        assert self.state is HopState.SERVING or not self.copies

    def enter(self, state: HopState) -> HopOutcome | None:
        """No state of a hop ends by itself."""
        return None

    def take(self, source: str, message: Message) -> HopOutcome | None:
        """Take a message that the present state allows."""
        match message:
            case Slice():
                return self._store(source, message)
            case Keep(version):
                self._arrivals.keep(version)
                return self._when_whole()
            case Admit():
                self._admit(message)
            case Activation():
                self._activation(message)
            case Gradient():
                self._gradient(message)
            case Probe():
                self._probe(message)
            case Accept():
                self._accept(message)
            case Discard():
                self._discard(message)
            case Close():
                self._close(message)
            case Commit():
                self._queue_job(CommitPart(message.round, 0, merged=True))
            case TakeSavepoint() if self._has_folded(message):
                # Every accepted update so far is folded, or its fold comes first in the queue.
                self._queue_job(Export("savepoint", message.round, message.number))
            case RestoreSum():
                self._restoring = message
                self._restore()
        return None

    def replan(self, plan: Plan) -> None:
        """Take a changed plan, and tell the orchestrator that its devices are now known here."""
        revised = plan.revision > self.plan.revision
        super().replan(plan)
        if revised and self.state is not HopState.PREPARING:
            self.tell(Joined(revision=plan.revision))

    # The worker

    def _queue_job(self, job: WorkerJob) -> None:
        self._queue.add(self._rank(job), job)
        # Tensors that are being received or sent, or that wait for the worker.
        queued = self._queue.tensor_bytes + self.channel.held_bytes + self.channel.in_flight_bytes
        self._max_queued = max(self._max_queued, queued)
        self._work()

    def _worker_free(self) -> None:
        """A job has ended: start the next one at once."""
        self._queue.finish()
        self._work_time.ends(self.now)
        self._work()

    def _work(self) -> None:
        job = self._queue.take()
        if job is not None:
            self._work_time.begins(job, self.now)
            self.start_job(job)

    # Weights

    def _store(self, source: str, message: Slice) -> HopOutcome | None:
        if message.purpose == "savepoint":
            self._restored.add(message)
            self.write(source, message)
            self._restore()
            return None
        self._arrivals.add(message)
        self.write(source, message)
        return self._when_whole()

    def _when_whole(self) -> HopOutcome | None:
        """Go on when the part and its frozen parameters have arrived completely."""
        version = self._arrivals.take_whole()
        return None if version is None else self._loaded(version)

    def _loaded(self, version: int) -> HopOutcome | None:
        """The part of `version` has arrived completely."""
        self.tell(Loaded(version))
        if self.state is not HopState.LOADING:
            return None
        self._version = version
        return HopOutcome.LOADED

    def _restore(self) -> None:
        """The sum of a savepoint is here whole: the round goes on from it."""
        wanted, due = self._restoring, self._arrivals.weights_bytes
        if wanted is None or (due and (self._restored.version, self._restored.bytes) != (wanted.round, due)):
            return
        self._folded, self._folded_samples = wanted.devices, wanted.weight
        self._restoring, self._restored = None, Arrivals()
        self.tell(Restored(wanted.round))

    # Admission

    def _admit(self, message: Admit) -> None:
        if message.device in self.copies:
            self.drop(message, "twice")
            return
        self._known_attempts[message.device] = message.attempt
        self.copies[message.device] = CopyProgress(message.attempt, message.batches)
        self._max_copies = max(self._max_copies, len(self.copies))
        self._queue_job(CopyPart(message.device, message.attempt, message.round, message.batches))
        if message.device in self.early and self.early[message.device][0] <= message.attempt:
            for activation in self.early.pop(message.device)[1]:
                self._activation(activation)

    def _accept(self, message: Accept) -> None:
        copy = self.copies.get(message.device)
        if copy is None or copy.attempt != message.attempt or copy.steps != message.batches:
            self.drop(message, "of an unknown copy")
            return
        del self.copies[message.device]
        self._folded += 1
        self._folded_samples += message.samples
        self._queue_job(Fold(message.device, message.attempt, message.samples))

    def _discard(self, message: Discard) -> None:
        attempt = max(self._known_attempts[message.device], message.attempt)
        self._known_attempts[message.device] = attempt
        self.copies.pop(message.device, None)
        if message.device in self.early and self.early[message.device][0] <= attempt:
            del self.early[message.device]
        self._queue.drop(message.device)
        if message.device in self.plan.devices:
            self.channel.forget(message.device)
        self._queue_job(DropCopy(message.device, message.attempt))

    # The pipeline

    def _copy_for(self, message: Activation | Gradient) -> CopyProgress | None:
        """Return the copy of a tensor's device. Early activations wait for admission; late tensors are dropped."""
        ticket = message.ticket
        copy = self.copies.get(ticket.device)
        if copy is not None and copy.attempt == ticket.attempt:
            return copy
        if ticket.attempt > self._known_attempts[ticket.device] and isinstance(message, Activation):
            self._keep_early(message)
        else:
            self.drop(message, "of another attempt")
        return None

    def _keep_early(self, message: Activation) -> None:
        """Keep the one batch that a device can have in flight, of its newest attempt."""
        ticket = message.ticket
        attempt, kept = self.early.get(ticket.device, (0, []))
        if attempt < ticket.attempt:
            attempt, kept = self.early[ticket.device] = (ticket.attempt, [])
        if attempt == ticket.attempt and len(kept) < self.plan.job.run.micro_batches:
            kept.append(message)
        else:
            self.drop(message, "too early")

    def _activation(self, message: Activation) -> None:
        copy = self._copy_for(message)
        if copy is not None:
            if not copy.takes_forward(message.ticket):
                self.drop(message, "out of order")
                return
            copy.forward = message.ticket
            self._queue_job(Forward(message.ticket, message.tensor))

    def _gradient(self, message: Gradient) -> None:
        copy = self._copy_for(message)
        if copy is not None:
            if not copy.takes_backward(message.ticket):
                self.drop(message, "out of order")
                return
            copy.backward = message.ticket
            self._queue_job(Backward(message.ticket, message.tensor))

    def _probe(self, message: Probe) -> None:
        if message.round > self._version:
            self.early_probes[message.device] = message
        elif message.round < self._version:
            self.drop(message, "of another round")
        else:
            self._queue_job(ForwardProbe(message.device, message.attempt, message.batch, message.round, message.tensor))

    def _close(self, message: Close) -> None:
        if not self._has_folded(message):
            return
        if message.merge:
            self.tell(Closed(message.round, self._folded, self._folded_samples))
            self._queue_job(Export("sum", message.round))
        else:
            self._queue_job(CommitPart(message.round, message.weight, merged=False))

    def _has_folded(self, message: Close | TakeSavepoint) -> bool:
        """Whether as many devices are in the sum as the orchestrator has accepted."""
        if message.devices != self._folded:
            self.tell(Fault(f"folded {self._folded} devices in round {message.round}, not {message.devices}"))
        return message.devices == self._folded

    # Results of jobs

    def job_done(self, job: WorkerJob, result: Result) -> HopOutcome | None:
        """The worker is free: give it the next job at once, and send the result of the last one."""
        self._memory = result.memory or self._memory
        if isinstance(job, Prepare):
            assert isinstance(result, Prepared)
            self._arrivals.expect(result.weights_bytes, result.frozen_bytes)
            self.promised_bytes = result.promised_bytes
            self.tell(Joined(held=result.held, revision=self.plan.revision))
            return HopOutcome.PREPARED
        self._worker_free()
        match job, result:
            case Forward(ticket), Encoded(tensor) if self._is_alive(ticket):
                self.send(self.plan.neighbour(ticket.device, self.address, +1), Activation(ticket, tensor), self.now)
            case Backward(ticket), Encoded(tensor) if self._is_alive(ticket):
                self.send(self.plan.neighbour(ticket.device, self.address, -1), Gradient(ticket, tensor), self.now)
                if ticket.last:
                    self._stepped(ticket)
            case ForwardProbe(device, attempt, batch, round), Encoded(tensor):
                probe = Probe(round, device, attempt, batch, tensor)
                self.send(self.plan.neighbour(device, self.address, +1), probe, self.now)
            case CheckCopy(), _:
                self._checked(job)
            case DropCopy(device, attempt), _:
                self.tell(Discarded(device, attempt))
            case Export(purpose, round, number), Exported(slices, digest):
                for each in slices:
                    self.tell(each)
                self.tell(Sent(purpose, round, digest, number))
            case CommitPart(round, merged=merged), _:
                self._committed(round, merged)
        return None

    def _committed(self, round: int, merged: bool) -> None:
        """The committed part is that of `round`. It goes to the checkpoint while the next round is under way."""
        self._version = round
        if merged:
            self.tell(Committed(round))
        else:
            self.tell(Closed(round, self._folded, self._folded_samples))
            self._queue_job(Export("part", round))
        self._folded = self._folded_samples = 0
        early, self.early_probes = self.early_probes, {}
        for probe in early.values():
            self._probe(probe)

    def fault(self, event: JobFailed) -> Message:
        """A failure with one device's tensors concerns only that device; the run can go on without it."""
        match event.job:
            case Forward(ticket) | Backward(ticket):
                return CopyFailed(ticket.device, ticket.attempt, event.reason)
            case ForwardProbe(device, attempt) | CheckCopy(_, device, attempt):
                return CopyFailed(device, attempt, event.reason)
            case Export("savepoint", round, number):
                return Sent("savepoint", round, "", number)
            case CommitPart(round, merged=False) if not event.is_unforeseen:
                return Closed(round, self._folded, self._folded_samples, event.reason)
        return Fault(event.reason)

    def job_failed(self, job: WorkerJob) -> None:
        """A job has failed: the worker is free, and the orchestrator leaves the device out or gives up the seat."""
        self._worker_free()

    def _is_alive(self, ticket: Ticket) -> bool:
        copy = self.copies.get(ticket.device)
        return copy is not None and copy.attempt == ticket.attempt

    def _stepped(self, ticket: Ticket) -> None:
        copy = self.copies[ticket.device]
        copy.steps += 1
        self._work_time.stepped(self.now)
        if copy.steps == copy.batches:
            self._queue_job(CheckCopy(ticket.round, ticket.device, ticket.attempt))

    def _checked(self, job: CheckCopy) -> None:
        """A copy is finite after its last step, so it may be folded."""
        copy = self.copies.get(job.device)
        if copy is not None and copy.attempt == job.attempt:
            self.tell(Finished(job.round, job.device, job.attempt, copy.steps))
