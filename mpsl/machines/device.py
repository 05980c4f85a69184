"""The device: first and last part of its own copy, its samples and labels, one batch in flight.

Admitted, it makes the round's batches one by one, uploads the weights of its parts, and waits. Of its data nothing
leaves this machine but activations, gradients and counts.
"""

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

from mpsl.batches import batches_per_epoch
from mpsl.machines.arrivals import Arrivals
from mpsl.machines.effects import Run, Write
from mpsl.machines.events import JobDone, JobFailed
from mpsl.machines.jobs import (
    Encoded,
    Export,
    Exported,
    HeadBackward,
    HeadForward,
    HeadProbe,
    Prepare,
    Prepared,
    Scored,
    StartRound,
    TailProbe,
    TailResult,
    TailStep,
    Trained,
    WholeBatch,
)
from mpsl.machines.participant import Participant
from mpsl.messages import (
    Accept,
    Activation,
    Admit,
    Discard,
    Discarded,
    Evaluate,
    Gradient,
    Joined,
    Message,
    Probe,
    Score,
    Slice,
    Ticket,
    Update,
)
from mpsl.names import ORCHESTRATOR
from mpsl.plan import Plan
from mpsl.topics import Address


class DeviceState(enum.Enum):
    """Where a device is in a run."""

    IDLE = "idle"
    PREPARING = "preparing"
    WAITING = "waiting"
    ADMITTED = "admitted"
    TRAINING = "training"
    UPLOADING = "uploading"
    CALLED = "called"
    PROBING = "probing"


S = DeviceState


class DeviceMachine(Participant):
    """State machine of a device; see TABLE for what each state allows."""

    branch = "dev"
    role = "device"
    TABLE: ClassVar[Mapping[DeviceState, Mapping[type[Message], str]]] = {
        S.IDLE: {},
        S.PREPARING: {},
        S.WAITING: {Slice: "_store", Admit: "_admitted", Evaluate: "_called", Accept: "_accepted", Discard: "_discard"},
        # Admitted, but the committed weights are still on their way; so too CALLED for an evaluation.
        S.ADMITTED: {Slice: "_store", Discard: "_discard"},
        S.TRAINING: {Activation: "_returned", Gradient: "_gradient", Discard: "_discard"},
        S.UPLOADING: {
            Slice: "_store",
            Admit: "_admitted",
            Evaluate: "_called",
            Accept: "_accepted",
            Discard: "_discard",
        },
        S.CALLED: {Slice: "_store", Discard: "_discard"},
        S.PROBING: {Probe: "_probe_returned", Discard: "_discard"},
    }

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.end_run()

    def table(self) -> Mapping[type[Message], str]:
        """The messages that the present state allows."""
        return self.TABLE[self.state]

    def progress(self) -> dict[str, Any]:
        """State, round, batches of the round (or of the evaluation) made so far, and all bytes that have come in."""
        done, due = self._batches_done, self._batches
        if self.state is DeviceState.PROBING:
            done, due = self._probe, self._test_batches
        received = self.channel.received_bytes if self.channel else 0
        return {"state": self.state.value, "round": self._round, "batch": done, "batches": due, "received": received}

    def named_in(self, plan: Plan) -> bool:
        """Whether the plan has a place for this very process."""
        return self.id in plan.devices and plan.devices[self.id].boot == self.boot

    def address(self, plan: Plan) -> Address:
        """A device is addressed by its id."""
        return self.id

    def end_run(self) -> None:
        """Back to idle."""
        self.state = DeviceState.IDLE
        self._chain: list[Address] = []
        self._weights_bytes = 0
        self._arrivals = Arrivals()
        self._held: int | None = None
        self._trained = 0
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
        self._busy = 0
        self._owed: Discarded | None = None

    def begin_run(self, plan: Plan) -> None:
        """`Prepare` is on its way."""
        self.state = DeviceState.PREPARING
        self._chain = plan.chain(self.id)

    # Weights and admission

    def _store(self, source: str, message: Slice) -> None:
        if message.version < self._trained:
            # A repeat of what has been trained on: it must not overwrite the result.
            self._drop(message, "of a former round")
            return
        self._held = None
        self._arrivals.add(message)
        self._do(Write(source, message))
        if self._arrivals.bytes == self._weights_bytes:
            self._held = message.version
            self._arrivals = Arrivals()
            self._start_if_ready()

    def _admitted(self, source: str, message: Admit) -> None:
        self._round, self._attempt, self._batches = message.round, message.attempt, message.batches
        self._batches_done = 0
        self._loss = 0.0
        self.state = DeviceState.ADMITTED
        self._start_if_ready()

    def _called(self, source: str, message: Evaluate) -> None:
        self._round, self._attempt = message.round, message.attempt
        self.state = DeviceState.CALLED
        self._start_if_ready()

    def _start_if_ready(self) -> None:
        if self.state is DeviceState.ADMITTED and self._held == self._round - 1:
            self.state = DeviceState.TRAINING
            self._began = self.now
            self._held = None
            self._trained = self._round
            self._run(StartRound(self._round, self._attempt))
            self._next_batch()
        elif self.state is DeviceState.CALLED and self._held == self._round:
            self.state = DeviceState.PROBING
            self._probe = self._correct = self._total = 0
            self._next_probe()

    def _accepted(self, source: str, message: Accept) -> None:
        if message.attempt == self._attempt:
            self.state = DeviceState.WAITING

    def _discard(self, source: str, message: Discard) -> None:
        if message.attempt < self._attempt:
            self._drop(message, "of another attempt")
            return
        # A later attempt than ours: its admission was dropped with the link, the answer is due all the same.
        self.state = DeviceState.WAITING
        self._held = None
        self._attempt = 0
        self._owed = Discarded(self.id, message.attempt)
        self._pay()

    def _pay(self) -> None:
        """Answer a discard once no job of the attempt can touch the weights any more."""
        if self._owed and self._busy == 0:
            self._send(ORCHESTRATOR, self._owed)
            self._owed = None

    # Training

    def _run(self, job: Any) -> None:
        self._busy += 1
        self._do(Run(job))

    def _ticket(self, micro: int, micros: int) -> Ticket:
        assert self.plan is not None
        per_epoch = batches_per_epoch(self._samples, self.plan.job.run.batch_size)
        epoch, batch = divmod(self._batches_done, per_epoch)
        return Ticket(self.plan.term, self._round, self.id, self._attempt, epoch, batch, micro, micros)

    def _next_batch(self) -> None:
        assert self.plan is not None
        if self._batches_done == self._batches:
            self.state = DeviceState.UPLOADING
            self._run(Export("update", self._round, self._attempt))
            return
        run = self.plan.job.run
        per_epoch = batches_per_epoch(self._samples, run.batch_size)
        start = (self._batches_done % per_epoch) * run.batch_size
        self._micros = min(run.micro_batches, run.batch_size, self._samples - start)
        if not self._chain:
            self._run(WholeBatch(self._ticket(0, self._micros)))
            return
        for micro in range(self._micros):
            self._run(HeadForward(self._ticket(micro, self._micros)))

    def _current(self, ticket: Ticket) -> bool:
        return (ticket.round, ticket.attempt, ticket.device) == (self._round, self._attempt, self.id)

    def _returned(self, source: str, message: Activation) -> None:
        if self._current(message.ticket):
            self._run(TailStep(message.ticket, message.tensor))
        else:
            self._drop(message, "of another attempt")

    def _gradient(self, source: str, message: Gradient) -> None:
        if self._current(message.ticket):
            self._run(HeadBackward(message.ticket, message.tensor))
        else:
            self._drop(message, "of another attempt")

    # Evaluation

    def _next_probe(self) -> None:
        if self._probe == self._test_batches:
            self.state = DeviceState.WAITING
            self._send(ORCHESTRATOR, Score(self._round, self._attempt, self._correct, self._total))
        elif self._chain:
            self._run(HeadProbe(self._round, self._attempt, self._probe))
        else:
            self._run(TailProbe(self._round, self._attempt, self._probe, None))

    def _probe_returned(self, source: str, message: Probe) -> None:
        if (message.attempt, message.batch) == (self._attempt, self._probe):
            self._run(TailProbe(self._round, self._attempt, message.batch, message.tensor))
        else:
            self._drop(message, "of another attempt")

    # Results of jobs

    def job_done(self, event: JobDone) -> None:
        """A job has ended: its result counts only where its attempt still does."""
        job, result = event.job, event.result
        if isinstance(job, Prepare) and isinstance(result, Prepared):
            self._weights_bytes = result.weights_bytes
            self._samples, self._test_batches = result.samples, result.test_batches
            self.state = DeviceState.WAITING
            self._send(ORCHESTRATOR, Joined("", result.samples, result.test_batches))
            return
        self._busy -= 1
        attempt = (
            job.ticket.attempt
            if isinstance(job, HeadForward | TailStep | HeadBackward | WholeBatch)
            else getattr(job, "attempt", 0)
        )
        if attempt == self._attempt:
            self._continue(job, result)
        self._pay()

    def _mean_loss(self) -> float:
        """Σ batch loss × batch samples, the mean of the local epochs."""
        assert self.plan is not None
        return self._loss / self.plan.job.run.local_epochs

    def job_failed(self, event: JobFailed) -> None:
        """A job raised: the orchestrator has been told; a discard can be answered."""
        if not isinstance(event.job, Prepare):
            self._busy -= 1
        self._pay()

    def _continue(self, job: Any, result: Any) -> None:
        match job, result:
            case HeadForward(ticket), Encoded(tensor):
                self._send(self._chain[0], Activation(ticket, tensor))
            case TailStep(ticket), TailResult(tensor, loss):
                self._loss += loss
                self._send(self._chain[-1], Gradient(ticket, tensor))
            case HeadBackward(ticket), _ if ticket.last:
                self._batches_done += 1
                self._next_batch()
            case WholeBatch(), Trained(loss):
                self._loss += loss
                self._batches_done += 1
                self._next_batch()
            case Export(), Exported(slices):
                for each in slices:
                    self._send(ORCHESTRATOR, each)
                samples = self._samples
                seconds = self.now - self._began
                self._send(
                    ORCHESTRATOR, Update(self._round, self._attempt, self._batches, samples, self._mean_loss(), seconds)
                )
            case HeadProbe(round, attempt, batch), Encoded(tensor):
                self._send(self._chain[0], Probe(round, self.id, attempt, batch, tensor))
            case TailProbe(), Scored(correct, total):
                self._correct += correct
                self._total += total
                self._probe += 1
                self._next_probe()
