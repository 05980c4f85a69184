"""The state of a device in one session, and the jobs that work on it: first and last part, the round's optimizers.

Dropping this object frees all of it. Only activations, gradients, weights and counts leave it, never samples or labels.
"""

import functools
import time
from dataclasses import replace

import torch
from msgspec import structs
from torch.nn import functional

from device_agent.gradient_feedback import GradientFeedback
from device_agent.shard_source import Shard
from mpsl.aggregation import Array
from mpsl.batches import Indices, batches_per_epoch, micro_batches, order
from mpsl.errors import UsageError
from mpsl.learning_rate import rates_of
from mpsl.machines.jobs import (
    Encoded,
    Export,
    Exported,
    HeadBackward,
    HeadForward,
    HeadProbe,
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
from mpsl.messages import Slice, Ticket
from mpsl.nn import tensors, weights
from mpsl.nn.allocation import trim_heap
from mpsl.nn.block_model import block_model, check_shard, refuse_difference
from mpsl.nn.edges import Values
from mpsl.nn.part import allocated, edges_of, frozen_tensors, lend, probe, probe_edges_of, trained_tensors
from mpsl.nn.training_copy import TrainingCopy
from mpsl.nn.weights import RAW, WeightCodec
from mpsl.plan import Plan


class DeviceTraining:
    """Device `id` with its `shard` in the run of `plan`; its parts are empty until slices are written.

    Raises UsageError if the shard does not fit the model.
    """

    def __init__(self, id: str, shard: Shard, plan: Plan) -> None:
        section = plan.job.model
        model = block_model(section)
        refuse_difference(model, plan.digests)
        check_shard(shard, section)
        self._sample = model.sample
        self._id = id
        self._shard = shard
        self._job = plan.job
        self._coding = tensors.Coding(time.thread_time, plan.job.wire, plan.message_bytes)
        self.parts = [allocated(model.part(*blocks)) for blocks in (plan.first_blocks, plan.last_blocks)]
        """The first and the last part."""
        lend(*self.parts)
        named = [trained_tensors(part) for part in self.parts]
        self._frozen = [weights.arrays_of(frozen_tensors(part)) for part in self.parts]
        """For each part, the parameters that do not train."""
        self._arrays = [weights.arrays_of(tensors_of_part) for tensors_of_part in named]
        codec = WeightCodec(plan.job.wire.weights)
        self._global_codecs = [codec.globals(tensors_of_part) for tensors_of_part in named]
        self._update_codecs = [codec.updates(tensors_of_part) for tensors_of_part in named]
        self._feedback = GradientFeedback(plan.job.wire.gradients, shard.samples)
        self._copies: tuple[TrainingCopy, TrainingCopy] | None = None
        """Both parts in training, from the start of a round to its export."""
        self._begun_with: list[dict[int, Array]] = []
        """For each part, the arrays at the start of the round; a lossy codec sends the differences to them."""

    def prepared(self) -> Prepared:
        """Return the facts that the orchestrator needs before loading."""
        run = self._job.run
        coded = zip(self._arrays, self._global_codecs, strict=True)
        chunk = self._job.wire.chunk_bytes
        globals_bytes = sum(weights.coded_bytes(arrays, codecs, chunk) for arrays, codecs in coded)
        test_batches = batches_per_epoch(self._shard.test_samples, run.batch_size)
        frozen_bytes = sum(map(weights.weights_bytes, self._frozen))
        return Prepared(globals_bytes, self._shard.samples, test_batches, frozen_bytes=frozen_bytes)

    def write(self, message: Slice) -> None:
        """Store a slice of committed weights, or of frozen parameters."""
        if message.purpose == "frozen":
            weights.write(self._frozen[message.part], message)
            return
        weights.write(self._arrays[message.part], message, self._global_codecs[message.part])

    def perform(self, job: WorkerJob) -> Result:
        """Do one job. Its result reports the seconds of codecs. Raises whatever the job raises."""
        return replace(self._perform(job), coding_s=self._coding.take())

    @functools.singledispatchmethod
    def _perform(self, job: WorkerJob) -> Result:
        raise NotImplementedError(f"a device has no job {type(job).__name__}")

    @_perform.register
    def _start_round(self, job: StartRound) -> Result:
        optimizer, seed = self._job.optimizer, self._job.run.seed
        first, last = self.parts
        run = self._job.run
        rates = rates_of(self._job, run.local_epochs * batches_per_epoch(self._shard.samples, run.batch_size))
        head = TrainingCopy(first, optimizer, seed, input_gradient=False, rates=rates)
        self._copies = (head, TrainingCopy(last, optimizer, seed, input_gradient=True, lender=head, rates=rates))
        self._feedback.begin()
        self._begun_with = [
            {index: arrays[index].copy() for index, codec in enumerate(codecs) if codec != RAW}
            for arrays, codecs in zip(self._arrays, self._update_codecs, strict=True)
        ]
        return Result()

    @_perform.register
    def _head_forward(self, job: HeadForward) -> Result:
        samples, _ = self._samples(job.ticket)
        values = self._first.forward(job.ticket, (samples,))
        return Encoded(self._coding.encode_activations(values, edges_of(self.parts[0])[1]))

    @_perform.register
    def _tail_step(self, job: TailStep) -> Result:
        inputs, _ = edges_of(self.parts[1])
        values = self._coding.decode_activations(job.tensor, inputs)
        mean, gradients = self._loss_and_gradients(job.ticket, values)
        rows = self._indices(job.ticket)[job.ticket.micro].tolist()
        with self._coding.timed():
            return TailResult(self._feedback.encode(gradients, inputs, rows), mean)

    @_perform.register
    def _head_backward(self, job: HeadBackward) -> Result:
        _, outputs = edges_of(self.parts[0])
        self._first.backward(job.ticket, self._coding.decode_gradients(job.tensor, outputs))
        return Result()

    @_perform.register
    def _whole_batch(self, job: WholeBatch) -> Result:
        total = 0.0
        for micro in range(job.ticket.micros):
            ticket = structs.replace(job.ticket, micro=micro)
            samples, labels = self._samples(ticket)
            (output,) = self._first.forward(ticket, (samples,))
            output.requires_grad_()
            mean = functional.cross_entropy(output, labels)
            self._scaled(mean, ticket, len(labels)).backward()  # type: ignore[no-untyped-call]
            total += mean.item() * len(labels)
            assert output.grad is not None
            self._first.backward(ticket, (output.grad,))
        return Trained(total)

    @_perform.register
    def _export(self, job: Export) -> Result:
        chunk = self._job.wire.chunk_bytes
        found: list[Slice] = []
        for part, (arrays, codecs) in enumerate(zip(self._arrays, self._update_codecs, strict=True)):
            before = self._begun_with[part]
            changes = [array - before[index] if index in before else array for index, array in enumerate(arrays)]
            found += weights.slices(changes, "update", job.version, job.attempt, part, chunk, codecs)
        self._feedback.finish()
        self._copies = None
        # It may be a long time until the device's next round.
        trim_heap()
        return Exported(found)

    @_perform.register
    def _head_probe(self, job: HeadProbe) -> Result:
        samples, _ = self._test(job.batch)
        values = probe(self.parts[0], (samples,))
        return Encoded(self._coding.encode_activations(values, probe_edges_of(self.parts[0])[1]))

    @_perform.register
    def _tail_probe(self, job: TailProbe) -> Result:
        samples, labels = self._test(job.batch)
        if job.tensor is None:
            (output,) = probe(self.parts[0], (samples,))
        else:
            values = self._coding.decode_activations(job.tensor, probe_edges_of(self.parts[1])[0])
            (output,) = probe(self.parts[1], values)
        if len(output) != len(labels):
            raise UsageError(f"evaluation batch {job.batch} came back with {len(output)} rows, {len(labels)} went out")
        loss = functional.cross_entropy(output, labels, reduction="sum")
        return Scored(correct(output, labels), len(labels), float(loss))

    @property
    def _first(self) -> TrainingCopy:
        return self._in_training()[0]

    @property
    def _last(self) -> TrainingCopy:
        return self._in_training()[1]

    def _in_training(self) -> tuple[TrainingCopy, TrainingCopy]:
        if self._copies is None:
            raise RuntimeError(f"{self._id} is in no round")
        return self._copies

    def _indices(self, ticket: Ticket) -> list[Indices]:
        run = self._job.run
        whole = order(self._shard.samples, run.seed, ticket.round, ticket.epoch, self._id, run.shuffle)
        return micro_batches(whole, ticket.batch, run.batch_size, run.micro_batches)

    def _samples(self, ticket: Ticket) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self._indices(ticket)[ticket.micro]
        return self._as_samples(self._shard.x[chosen]), torch.from_numpy(self._shard.y[chosen])

    def _test(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._job.run.batch_size
        chosen = slice(batch * size, (batch + 1) * size)
        samples = self._as_samples(self._shard.x_test[chosen].copy())
        return samples, torch.from_numpy(self._shard.y_test[chosen].copy())

    def _as_samples(self, x: Array) -> torch.Tensor:
        return torch.from_numpy(x).to(self._sample.dtype)

    def _scaled(self, mean: torch.Tensor, ticket: Ticket, samples: int) -> torch.Tensor:
        """Return a micro-batch's mean × its samples / the batch's samples; the mean itself if it is the whole batch."""
        batch = sum(len(part) for part in self._indices(ticket))
        return mean if samples == batch else mean * samples / batch

    def _loss_and_gradients(self, ticket: Ticket, values: Values) -> tuple[float, Values]:
        _, labels = self._samples(ticket)
        (output,) = self._last.forward(ticket, values)
        output.requires_grad_()
        if output.shape[0] != len(labels):
            raise UsageError(f"an activation of {output.shape[0]} rows came back for {len(labels)} samples")
        mean = functional.cross_entropy(output, labels)
        self._scaled(mean, ticket, len(labels)).backward()  # type: ignore[no-untyped-call]
        assert output.grad is not None
        return mean.item() * len(labels), self._last.backward(ticket, (output.grad,))


def correct(output: torch.Tensor, labels: torch.Tensor) -> int:
    """How many rows of `output` (N × classes) have their largest value at their label.

    A row that is not finite predicts nothing, although argmax takes NaN for the largest value.
    """
    return int(((output.argmax(1) == labels) & output.isfinite().all(1)).sum())
