"""The device's session: first and last part of its own copy, its samples and labels, one batch in flight.

An admitted device makes the round's batches one by one, uploads the weights of its parts, and waits. Of its data, only
activations, gradients and counts leave this machine. Its transitions are in `tables/device.py`.
"""

from collections.abc import Callable
from typing import Any

from mpsl.batches import batches_per_epoch
from mpsl.machines.arrivals import Arrivals
from mpsl.machines.effects import Effect
from mpsl.machines.events import JobFailed
from mpsl.machines.jobs import (
    Encoded,
    Export,
    Exported,
    HeadBackward,
    HeadForward,
    HeadProbe,
    Prepare,
    Prepared,
    Result,
    Scored,
    StartRound,
    TailProbe,
    TailResult,
    TailStep,
    Trained,
    WholeBatch,
    WorkerJob,
)
from mpsl.machines.participant_session import Identity, ParticipantSession
from mpsl.machines.tables.device import TABLE, DeviceOutcome, DeviceState
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Discard,
    Discarded,
    Evaluate,
    Fault,
    Gradient,
    Joined,
    Message,
    Probe,
    Score,
    Slice,
    Ticket,
    Update,
)
from mpsl.plan import Plan
from mpsl.topics import Address

S, O = DeviceState, DeviceOutcome  # noqa: E741


class DeviceSession(ParticipantSession[DeviceState, DeviceOutcome]):
    """One device in one run."""

    def __init__(
        self,
        identity: Identity,
        plan: Plan,
        emit: Callable[[Effect], None],
        max_packet: int | None,
        links_before: int = 0,
    ) -> None:
        super().__init__(identity, plan, identity.id, TABLE, emit, max_packet, links_before)
        self._chain: list[Address] = plan.chain(identity.id)
        self._weights_bytes = self._frozen_bytes = 0
        self._arrivals, self._frozen = Arrivals(), Arrivals()
        self._held: int | None = None
        """The round whose committed weights the device holds; None once training has changed them."""
        self._trained = 0
        """The last round in which the device has trained, unless that was discarded."""
        self._samples = 0
        self._test_batches = 0
        self._round = 0
        self._attempt = 0
        self._batches = 0
        self._batches_done = 0
        self._micros = 0
        self._loss = 0.0
        self._began = 0.0
        self._probe = 0
        self._correct = 0
        self._total = 0
        self._test_loss = 0.0
        self._running = 0
        """Jobs of attempts that the worker has not finished yet."""
        self._pending_ack: Discarded | None = None

    def progress(self) -> dict[str, Any]:
        """Return state, round, finished batches of the round (or of the evaluation), and all received bytes."""
        done, due = self._batches_done, self._batches
        if self.state is S.PROBING:
            done, due = self._probe, self._test_batches
        received = self.channel.received_bytes
        return {"state": self.state.value, "round": self._round, "batch": done, "batches": due, "received": received}

    def validate(self) -> None:
        """Check that counts are within their bounds, and that weights in training do not count as committed."""
        assert self._running >= 0, f"{self._running} jobs are running"
        assert 0 <= self._batches_done <= self._batches or self.state is not S.TRAINING
        assert self._correct <= self._total
        assert self.state is not S.TRAINING or self._held is None

    def enter(self, state: DeviceState) -> DeviceOutcome | None:
        """Do what a state begins with."""
        match state:
            case S.WAITING if self._attempt == 0:
                self._flush_discard_ack()
            case S.ADMITTED if self._holds(self._round - 1):
                return O.ROUND_STARTED
            case S.CALLED if self._holds(self._round):
                return O.EVALUATION_STARTED
            case S.TRAINING:
                self._began = self.now
                self._held = None
                self._trained = self._round
                self._run_attempt(StartRound(self._round, self._attempt))
                return self._next_batch()
            case S.UPLOADING:
                self._run_attempt(Export("update", self._round, self._attempt))
            case S.PROBING:
                self._probe = self._correct = self._total = 0
                self._test_loss = 0.0
                return self._next_probe()
        return None

    def take(self, source: str, message: Message) -> DeviceOutcome | None:
        """Take a message that the present state allows."""
        match message:
            case Slice():
                return self._store(source, message)
            case Admit():
                self._round, self._attempt, self._batches = message.round, message.attempt, message.batches
                self._batches_done = 0
                self._loss = 0.0
                return O.ADMITTED
            case Evaluate():
                self._round, self._attempt = message.round, message.attempt
                return O.CALLED
            case Accept(attempt=attempt):
                return O.ACCEPTED if attempt == self._attempt else None
            case Discard():
                return self._discard(message)
            case Activation() if self._is_current(message.ticket):
                self._run_attempt(TailStep(message.ticket, message.tensor))
            case Gradient() if self._is_current(message.ticket):
                self._run_attempt(HeadBackward(message.ticket, message.tensor))
            case Probe() if (message.attempt, message.batch) == (self._attempt, self._probe):
                self._run_attempt(TailProbe(self._round, self._attempt, message.batch, message.tensor))
            case _:
                self.drop(message, "of another attempt")
        return None

    # Weights

    def _store(self, source: str, message: Slice) -> DeviceOutcome | None:
        if message.purpose == "frozen":
            self._frozen.add(message)
            self.write(source, message)
            return self.enter(self.state) if self.state in (S.ADMITTED, S.CALLED) else None
        if message.version < self._trained or self._pending_ack is not None:
            # A repeat of weights that have been trained on since; it must not overwrite the result. While a job of a
            # discarded attempt may change them, none can be new: they are sent once the discard is acknowledged.
            self.drop(message, "of an earlier round")
            return None
        self._held = None
        self._arrivals.add(message)
        self.write(source, message)
        if self._arrivals.bytes != self._weights_bytes:
            return None
        self._held = message.version
        self._arrivals = Arrivals()
        return self.enter(self.state) if self.state in (S.ADMITTED, S.CALLED) else None

    def _holds(self, version: int) -> bool:
        """Whether the weights of a committed round are here, and all frozen parameters."""
        return (self._held == version or not self._weights_bytes) and self._frozen.bytes >= self._frozen_bytes

    def _discard(self, message: Discard) -> DeviceOutcome | None:
        if message.attempt < self._attempt:
            self.drop(message, "of another attempt")
            return None
        # The attempt is later than ours: its admission was lost with the link, but the answer is still due.
        self._held = None
        # The attempt is void, so the same round may begin again with the weights that it began with.
        self._attempt = self._trained = 0
        self._pending_ack = Discarded(self.identity.id, message.attempt)
        return O.DISCARDED

    def _flush_discard_ack(self) -> None:
        """Answer a discard once no job of the attempt can touch the weights any more."""
        if self._pending_ack and self._running == 0:
            self.tell(self._pending_ack)
            self._pending_ack = None

    # Training

    def _run_attempt(self, job: WorkerJob) -> None:
        self._running += 1
        self.start_job(job)

    def _ticket(self, micro: int, micros: int) -> Ticket:
        per_epoch = batches_per_epoch(self._samples, self.plan.job.run.batch_size)
        epoch, batch = divmod(self._batches_done, per_epoch)
        return Ticket(self.id.term, self._round, self.identity.id, self._attempt, epoch, batch, micro, micros)

    def _next_batch(self) -> DeviceOutcome | None:
        if self._batches_done == self._batches:
            return O.BATCHES_DONE
        run = self.plan.job.run
        per_epoch = batches_per_epoch(self._samples, run.batch_size)
        start = (self._batches_done % per_epoch) * run.batch_size
        self._micros = min(run.micro_batches, run.batch_size, self._samples - start)
        if not self._chain:
            self._run_attempt(WholeBatch(self._ticket(0, self._micros)))
            return None
        for micro in range(self._micros):
            self._run_attempt(HeadForward(self._ticket(micro, self._micros)))
        return None

    def _is_current(self, ticket: Ticket) -> bool:
        mine = (self._round, self._attempt, self.identity.id)
        return (ticket.round, ticket.attempt, ticket.device) == mine

    # Evaluation

    def _next_probe(self) -> DeviceOutcome | None:
        if self._probe == self._test_batches:
            self.tell(Score(self._round, self._attempt, self._correct, self._total, self._test_loss))
            return O.SCORED
        if self._chain:
            self._run_attempt(HeadProbe(self._round, self._attempt, self._probe))
        else:
            self._run_attempt(TailProbe(self._round, self._attempt, self._probe, None))
        return None

    # Results of jobs

    def job_done(self, job: WorkerJob, result: Result) -> DeviceOutcome | None:
        """Take a job's result. It counts only if its attempt is still valid."""
        if isinstance(job, Prepare) and isinstance(result, Prepared):
            self._weights_bytes, self._frozen_bytes = result.weights_bytes, result.frozen_bytes
            self._samples, self._test_batches = result.samples, result.test_batches
            self.tell(Joined("", result.samples, result.test_batches))
            return O.PREPARED
        self._running -= 1
        outcome = self._continue(job, result) if _attempt_of(job) == self._attempt else None
        self._flush_discard_ack()
        return outcome

    def job_failed(self, job: WorkerJob) -> None:
        """A job has failed, so a discard may now be answered."""
        if not isinstance(job, Prepare):
            self._running -= 1
        self._flush_discard_ack()

    def fault(self, event: JobFailed) -> Message:
        """Report every failed job as a fault of this device."""
        return Fault(event.reason)

    def _continue(self, job: WorkerJob, result: Result) -> DeviceOutcome | None:
        match job, result:
            case HeadForward(ticket), Encoded(tensor):
                self.send(self._chain[0], Activation(ticket, tensor), self.now)
            case TailStep(ticket), TailResult(tensor, loss):
                self._loss += loss
                self.send(self._chain[-1], Gradient(ticket, tensor), self.now)
            case HeadBackward(ticket), _ if ticket.last:
                self._batches_done += 1
                return self._next_batch()
            case WholeBatch(), Trained(loss):
                self._loss += loss
                self._batches_done += 1
                return self._next_batch()
            case Export(), Exported(slices):
                for each in slices:
                    self.tell(each)
                # The mean of the local epochs of Σ batch loss × batch samples.
                loss = self._loss / self.plan.job.run.local_epochs
                seconds = self.now - self._began
                self.tell(Update(self._round, self._attempt, self._batches, self._samples, loss, seconds))
            case HeadProbe(round, attempt, batch), Encoded(tensor):
                self.send(self._chain[0], Probe(round, self.identity.id, attempt, batch, tensor), self.now)
            case TailProbe(), Scored(correct, total, loss):
                self._correct += correct
                self._total += total
                self._test_loss += loss
                self._probe += 1
                return self._next_probe()
        return None


def _attempt_of(job: WorkerJob) -> int:
    match job:
        case HeadForward(ticket) | TailStep(ticket) | HeadBackward(ticket) | WholeBatch(ticket):
            return ticket.attempt
        case StartRound(_, attempt) | HeadProbe(_, attempt, _) | TailProbe(_, attempt, _, _):
            return attempt
        case Export(attempt=attempt):
            return attempt
    return 0
