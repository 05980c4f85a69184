"""The hop: one part on a compute node, a copy of it for every admitted device, a worker that never waits with work.

What is to be done next is decided here, by the schedule, whenever the worker is free. Which devices count is the
orchestrator's word alone.
"""

import enum
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mpsl.machines.arrivals import Arrivals
from mpsl.machines.effects import Run, Write
from mpsl.machines.events import JobDone, JobFailed
from mpsl.machines.jobs import (
    Backward,
    CommitPart,
    CopyPart,
    DropCopy,
    Encoded,
    Export,
    Exported,
    Fold,
    Forward,
    ForwardProbe,
    Job,
    Prepare,
    Prepared,
)
from mpsl.machines.participant import Participant
from mpsl.machines.ready_queue import ReadyQueue
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
    Loaded,
    Message,
    Probe,
    Slice,
    Ticket,
)
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan, Seat
from mpsl.schedules import schedules
from mpsl.topics import Address


class HopState(enum.Enum):
    """Where a compute node is in a run."""

    IDLE = "idle"
    PREPARING = "preparing"
    LOADING = "loading"
    SERVING = "serving"


@dataclass
class Copy:
    """What is known of an admitted device: its attempt, steps made, and the last ticket each way."""

    attempt: int
    batches: int
    steps: int = 0
    forward: Ticket | None = None
    backward: Ticket | None = None


class HopMachine(Participant):
    """State machine of a compute node; see TABLE for what each state allows."""

    branch = "node"
    role = "node"
    TABLE: ClassVar[Mapping[HopState, Mapping[type[Message], str]]] = {
        HopState.IDLE: {},
        HopState.PREPARING: {Slice: "_store_early"},
        HopState.LOADING: {Slice: "_store"},
        HopState.SERVING: {
            Slice: "_store",
            Admit: "_admit",
            Activation: "_activation",
            Gradient: "_gradient",
            Probe: "_probe",
            Accept: "_accept",
            Discard: "_discard",
            Close: "_close",
            Commit: "_commit",
        },
    }

    def __init__(self, *arguments: Any, schedule: str = "backward-first", **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._rank = schedules.get(schedule)
        self.end_run()

    def table(self) -> Mapping[type[Message], str]:
        """The messages that the present state allows."""
        return self.TABLE[self.state]

    def progress(self) -> dict[str, Any]:
        """State, seat, copies alive and the most of them, the worker's time, the most bytes that each holder had."""
        seat = self._seat.address if self._seat else None
        memory = {**self._memory, "queues": self._most_queued} if self._memory else None
        return {
            "state": self.state.value,
            "seat": seat,
            "copies": len(self.copies),
            "most_copies": self._most_copies,
            **self._work_time.facts(self.now),
            "memory": memory,
        }

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan has a seat for this very process."""
        seat = plan.seat_of(self.id)
        return seat is not None and seat.boot == self.boot

    def address(self, plan: Plan) -> Address:
        """A hop is addressed by its seat: another node may take the seat over."""
        seat = plan.seat_of(self.id)
        assert seat is not None
        return seat.address

    def end_run(self) -> None:
        """Back to idle."""
        self.state = HopState.IDLE
        self.copies: dict[str, Copy] = {}
        self._most_copies = 0
        self._seat: Seat | None = None
        self._queue = ReadyQueue()
        self._known_attempts: dict[str, int] = defaultdict(int)
        self._early: dict[str, tuple[int, list[Activation]]] = {}
        self._early_probes: dict[str, Probe] = {}
        self._weights_bytes = 0
        self._arrivals = Arrivals()
        self._version = -1
        self._memory: Mapping[str, int] = {}
        self._most_queued = 0
        self._work_time = WorkTime()
        self._round = 0
        self._folded = 0
        self._folded_samples = 0

    def begin_run(self, plan: Plan) -> None:
        """`Prepare` is on its way."""
        self.state = HopState.PREPARING
        self._seat = plan.seat_of(self.id)

    # The worker

    def _queue_job(self, job: Job) -> None:
        self._queue.add(self._rank(job), job)
        self._most_queued = max(self._most_queued, self._queued_bytes())
        self._work()

    def _queued_bytes(self) -> int:
        """Tensors on their way in or out, or waiting for the worker."""
        assert self.channel is not None
        return self._queue.tensor_bytes + self.channel.held_bytes + self.channel.in_flight_bytes

    def _worker_free(self) -> None:
        """A job has ended: the next one starts at once."""
        self._queue.finish()
        self._work_time.ends(self.now)
        self._work()

    def _work(self) -> None:
        job = self._queue.take()
        if job is not None:
            self._work_time.begins(job, self.now)
            self._do(Run(job))

    # Weights

    def _store_early(self, source: str, message: Slice) -> None:
        self._drop(message, "before the part was there")

    def _store(self, source: str, message: Slice) -> None:
        self._arrivals.add(message)
        self._do(Write(source, message))
        if self._arrivals.bytes == self._weights_bytes:
            self._arrivals = Arrivals()
            if self.state is HopState.LOADING:
                self._version = message.version
                self.state = HopState.SERVING
            self._send(ORCHESTRATOR, Loaded(message.version))

    # Admission

    def _admit(self, source: str, message: Admit) -> None:
        if message.device in self.copies:
            self._drop(message, "twice")
            return
        self._round = message.round
        self._known_attempts[message.device] = message.attempt
        self.copies[message.device] = Copy(message.attempt, message.batches)
        self._most_copies = max(self._most_copies, len(self.copies))
        self._queue_job(CopyPart(message.device, message.attempt, message.round))
        if message.device in self._early and self._early[message.device][0] <= message.attempt:
            for activation in self._early.pop(message.device)[1]:
                self._activation(message.device, activation)

    def _accept(self, source: str, message: Accept) -> None:
        copy = self.copies.get(message.device)
        if copy is None or copy.attempt != message.attempt or copy.steps != message.batches:
            self._drop(message, "of a copy that is not here")
            return
        del self.copies[message.device]
        self._folded += 1
        self._folded_samples += message.samples
        self._queue_job(Fold(message.device, message.attempt, message.samples))

    def _discard(self, source: str, message: Discard) -> None:
        attempt = max(self._known_attempts[message.device], message.attempt)
        self._known_attempts[message.device] = attempt
        self.copies.pop(message.device, None)
        if message.device in self._early and self._early[message.device][0] <= attempt:
            del self._early[message.device]
        self._queue.drop(lambda job: _device_of(job) == message.device)
        if self.channel is not None and self.plan is not None and message.device in self.plan.devices:
            self.channel.forget(message.device)
        self._queue_job(DropCopy(message.device, message.attempt))

    # The pipeline

    def _copy_for(self, source: str, message: Activation | Gradient) -> Copy | None:
        """The copy that a tensor is for; early activations wait for their admission, late tensors are dropped."""
        ticket = message.ticket
        copy = self.copies.get(ticket.device)
        if copy is not None and copy.attempt == ticket.attempt:
            return copy
        if ticket.attempt > self._known_attempts[ticket.device] and isinstance(message, Activation):
            self._keep_early(message)
        else:
            self._drop(message, "of another attempt")
        return None

    def _keep_early(self, message: Activation) -> None:
        """Keep the one batch that a device can have in flight, of its newest attempt."""
        assert self.plan is not None
        ticket = message.ticket
        attempt, kept = self._early.get(ticket.device, (0, []))
        if attempt < ticket.attempt:
            attempt, kept = self._early[ticket.device] = (ticket.attempt, [])
        if attempt == ticket.attempt and len(kept) < self.plan.job.run.micro_batches:
            kept.append(message)
        else:
            self._drop(message, "too early")

    def _activation(self, source: str, message: Activation) -> None:
        copy = self._copy_for(source, message)
        if copy is not None:
            if not _follows(copy.forward, message.ticket):
                self._drop(message, "out of order")
                return
            copy.forward = message.ticket
            self._queue_job(Forward(message.ticket, message.tensor))

    def _gradient(self, source: str, message: Gradient) -> None:
        copy = self._copy_for(source, message)
        if copy is not None:
            if not _follows(copy.backward, message.ticket) or copy.forward is None or message.ticket > copy.forward:
                self._drop(message, "out of order")
                return
            copy.backward = message.ticket
            self._queue_job(Backward(message.ticket, message.tensor))

    def _probe(self, source: str, message: Probe) -> None:
        if message.round > self._version:
            self._early_probes[message.device] = message
        elif message.round < self._version:
            self._drop(message, "of another round")
        else:
            self._queue_job(ForwardProbe(message.device, message.attempt, message.batch, message.round, message.tensor))

    def _neighbour(self, device: str, step: int) -> Address:
        """The address one place up (+1) or down (-1) the chain of `device`; beyond its ends sits the device itself."""
        assert self.plan is not None
        assert self._seat is not None
        chain = self.plan.chain(device)
        place = self._seat.stage - 1 + step
        return chain[place] if 0 <= place < len(chain) else device

    # The round's end

    def _close(self, source: str, message: Close) -> None:
        if message.devices != self._folded:
            self._send(
                ORCHESTRATOR, Fault(f"folded {self._folded} devices in round {message.round}, not {message.devices}")
            )
            return
        self._queue_job(Export("sum", message.round))

    def _commit(self, source: str, message: Commit) -> None:
        self._queue_job(CommitPart(message.round, message.weight, message.merged))

    # Results of jobs

    def job_done(self, event: JobDone) -> None:
        """The worker is free: send what it made, and give it the next job at once."""
        job, result = event.job, event.result
        self._memory = result.memory or self._memory
        if isinstance(job, Prepare):
            assert isinstance(result, Prepared)
            self._weights_bytes = result.weights_bytes
            self.state = HopState.LOADING
            self._send(ORCHESTRATOR, Joined())
            return
        self._worker_free()
        match job, result:
            case Forward(ticket), Encoded(tensor) if self._alive(ticket):
                self._send(self._neighbour(ticket.device, +1), Activation(ticket, tensor))
            case Backward(ticket), Encoded(tensor) if self._alive(ticket):
                self._send(self._neighbour(ticket.device, -1), Gradient(ticket, tensor))
                if ticket.last:
                    self._stepped(ticket)
            case ForwardProbe(device, attempt, batch, round), Encoded(tensor):
                self._send(self._neighbour(device, +1), Probe(round, device, attempt, batch, tensor))
            case DropCopy(device, attempt), _:
                self._send(ORCHESTRATOR, Discarded(device, attempt))
            case Export(version=round), Exported(slices, digest):
                for each in slices:
                    self._send(ORCHESTRATOR, each)
                self._send(ORCHESTRATOR, Closed(round, self._folded, self._folded_samples, digest))
            case CommitPart(round), _:
                self._version = round
                self._folded = self._folded_samples = 0
                self._send(ORCHESTRATOR, Committed(round))
                early, self._early_probes = self._early_probes, {}
                for device, probe in early.items():
                    self._probe(device, probe)

    def fault(self, job: Job, reason: str) -> Message:
        """What fails for one device's tensors is its own affair: the run can go on without it."""
        match job:
            case Forward(ticket) | Backward(ticket):
                return CopyFailed(ticket.device, ticket.attempt, reason)
            case ForwardProbe(device, attempt):
                return CopyFailed(device, attempt, reason)
        return Fault(reason)

    def job_failed(self, event: JobFailed) -> None:
        """A job raised: the worker is free again, and the orchestrator leaves the device out, or ends the run."""
        self._worker_free()

    def _alive(self, ticket: Ticket) -> bool:
        copy = self.copies.get(ticket.device)
        return copy is not None and copy.attempt == ticket.attempt

    def _stepped(self, ticket: Ticket) -> None:
        copy = self.copies[ticket.device]
        copy.steps += 1
        self._work_time.stepped(self.now)
        if copy.steps == copy.batches:
            self._send(ORCHESTRATOR, Finished(ticket.round, ticket.device, ticket.attempt, copy.steps))


def _follows(before: Ticket | None, ticket: Ticket) -> bool:
    """Whether a ticket is the next one of its device: the next micro-batch, or the first of a later batch."""
    if before is None or before.last:
        return ticket.micro == 0 and (before is None or (ticket.epoch, ticket.batch) > (before.epoch, before.batch))
    return (ticket.epoch, ticket.batch, ticket.micro) == (before.epoch, before.batch, before.micro + 1)


def _device_of(job: Job) -> str | None:
    match job:
        case Forward(ticket) | Backward(ticket):
            return ticket.device
        case CopyPart(device):
            return device
    return None
