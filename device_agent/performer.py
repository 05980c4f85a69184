"""The device's jobs: first and last part, its samples and labels.

Nothing but activations, gradients, weights and counts goes out.
"""

import functools
import time
from dataclasses import replace

import torch
from msgspec import structs
from torch.nn import functional

from device_agent.gradient_feedback import GradientFeedback
from device_agent.shard import Shard
from mpsl.batches import Indices, batches_per_epoch, micro_batches, order
from mpsl.errors import UsageError
from mpsl.machines.jobs import (
    BlocksMeasured,
    Encoded,
    Export,
    Exported,
    HeadBackward,
    HeadForward,
    HeadProbe,
    Job,
    Leave,
    MeasureBlocks,
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
)
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice, Ticket
from mpsl.nn import tensors, weights
from mpsl.nn.allocation import trim_heap
from mpsl.nn.models import describe
from mpsl.nn.part import build_part, probe, state_tensors
from mpsl.nn.profiler import Profiler
from mpsl.nn.training_copy import TrainingCopy
from mpsl.nn.weights import RAW, WeightCodec
from mpsl.plan import Plan


class DevicePerformer:
    """Performs the jobs of one device with its `shard`, one at a time."""

    def __init__(self, id: str, shard: Shard, profiler: Profiler | None = None) -> None:
        self._id = id
        self._profiler = profiler
        self._shard = shard
        self._plan: Plan | None = None
        self._coding = tensors.Coding(time.thread_time)

    def write(self, source: str, message: Slice, session: SessionId | None = None) -> None:
        """Take a slice of committed weights in."""
        weights.write(self._arrays[message.part], message, self._global_codecs[message.part])

    def perform(self, job: Job, session: SessionId | None = None) -> Result:
        """Do one job, and say how long the codecs took; raises what goes wrong."""
        return replace(self._perform(job), coding_s=self._coding.take())

    @functools.singledispatchmethod
    def _perform(self, job: Job) -> Result:
        raise NotImplementedError(f"a device has no job {type(job).__name__}")

    @_perform.register
    def _measure(self, job: MeasureBlocks) -> Result:
        if self._profiler is None:
            raise RuntimeError("this device cannot measure")
        return BlocksMeasured(self._profiler.answer(job.question))

    @_perform.register
    def _prepare(self, job: Prepare) -> Result:
        plan = job.plan
        section = plan.job.model
        model = describe(section.name, **section.args)
        self._shard.check(model.accepts, model.input_shape(), model.num_classes)
        self._parts = [build_part(section, blocks) for blocks in (plan.first_blocks, plan.last_blocks)]
        named = [state_tensors(part) for part in self._parts]
        self._arrays = [weights.arrays_of(tensors_of_part) for tensors_of_part in named]
        wire = plan.job.wire
        codec = WeightCodec(wire.weights)
        self._global_codecs = [codec.globals(tensors_of_part) for tensors_of_part in named]
        self._update_codecs = [codec.updates(tensors_of_part) for tensors_of_part in named]
        self._feedback = GradientFeedback(wire.gradients, self._shard.samples)
        self._plan = plan
        batch = plan.job.run.batch_size
        test_batches = batches_per_epoch(self._shard.test_samples, batch)
        coded = zip(self._arrays, self._global_codecs, strict=True)
        globals_bytes = sum(weights.coded_bytes(arrays, codecs, wire.chunk_bytes) for arrays, codecs in coded)
        return Prepared(globals_bytes, self._shard.samples, test_batches)

    @_perform.register
    def _leave(self, job: Leave) -> Result:
        for name in ("_parts", "_arrays", "_begun_with", "_feedback", "_first", "_last"):
            self.__dict__.pop(name, None)
        self._plan = None
        trim_heap()
        return Result()

    @_perform.register
    def _start_round(self, job: StartRound) -> Result:
        optimizer, seed = self._need().job.optimizer, self._need().job.run.seed
        first, last = self._parts
        self._first = TrainingCopy(first, optimizer, seed, input_gradient=False)
        self._last = TrainingCopy(last, optimizer, seed, input_gradient=True)
        self._feedback.begin()
        self._begun_with = [
            {index: arrays[index].copy() for index, codec in enumerate(codecs) if codec != RAW}
            for arrays, codecs in zip(self._arrays, self._update_codecs, strict=True)
        ]
        return Result()

    @_perform.register
    def _begin(self, job: HeadForward) -> Result:
        samples, _ = self._samples(job.ticket)
        return Encoded(self._coding.encode(self._first.forward(job.ticket, samples), self._need().job.wire.activations))

    @_perform.register
    def _turn(self, job: TailStep) -> Result:
        plan = self._need()
        value = self._coding.decode(job.tensor, plan.job.wire.activations, plan.message_bytes)
        mean, gradient = self._loss_and_gradient(job.ticket, value)
        rows = self._indices(job.ticket)[job.ticket.micro].tolist()
        with self._coding.timed():
            return TailResult(self._feedback.encode(gradient, rows), mean)

    @_perform.register
    def _complete(self, job: HeadBackward) -> Result:
        plan = self._need()
        self._first.backward(job.ticket, self._coding.decode(job.tensor, plan.job.wire.gradients, plan.message_bytes))
        return Result()

    @_perform.register
    def _whole_batch(self, job: WholeBatch) -> Result:
        total = 0.0
        for micro in range(job.ticket.micros):
            ticket = structs.replace(job.ticket, micro=micro)
            samples, labels = self._samples(ticket)
            output = self._first.forward(ticket, samples).requires_grad_()
            mean = functional.cross_entropy(output, labels)
            self._scaled(mean, ticket, len(labels)).backward()  # type: ignore[no-untyped-call]
            total += mean.item() * len(labels)
            assert output.grad is not None
            self._first.backward(ticket, output.grad)
        return Trained(total)

    @_perform.register
    def _export(self, job: Export) -> Result:
        chunk = self._need().job.wire.chunk_bytes
        found: list[Slice] = []
        for part, (arrays, codecs) in enumerate(zip(self._arrays, self._update_codecs, strict=True)):
            before = self._begun_with[part]
            changes = [array - before[index] if index in before else array for index, array in enumerate(arrays)]
            found += weights.slices(changes, "update", job.version, job.attempt, part, chunk, codecs)
        self._feedback.finish()
        self.__dict__.pop("_first", None)
        self.__dict__.pop("_last", None)
        # Its next turn may be long in coming.
        trim_heap()
        return Exported(found)

    @_perform.register
    def _begin_probe(self, job: HeadProbe) -> Result:
        samples, _ = self._test(job.batch)
        return Encoded(self._coding.encode(probe(self._parts[0], samples), self._need().job.wire.activations))

    @_perform.register
    def _score_probe(self, job: TailProbe) -> Result:
        plan = self._need()
        samples, labels = self._test(job.batch)
        if job.tensor is None:
            output = probe(self._parts[0], samples)
        else:
            value = self._coding.decode(job.tensor, plan.job.wire.activations, plan.message_bytes)
            output = probe(self._parts[1], value)
        if len(output) != len(labels):
            raise UsageError(f"evaluation batch {job.batch} came back with {len(output)} rows, {len(labels)} went out")
        return Scored(int((output.argmax(1) == labels).sum()), len(labels))

    def _need(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("no run is prepared")
        return self._plan

    def _indices(self, ticket: Ticket) -> list[Indices]:
        run = self._need().job.run
        whole = order(self._shard.samples, run.seed, ticket.round, ticket.epoch, self._id, run.shuffle)
        return micro_batches(whole, ticket.batch, run.batch_size, run.micro_batches)

    def _samples(self, ticket: Ticket) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self._indices(ticket)[ticket.micro]
        return torch.from_numpy(self._shard.x[chosen]), torch.from_numpy(self._shard.y[chosen])

    def _test(self, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = self._need().job.run.batch_size
        chosen = slice(batch * size, (batch + 1) * size)
        return torch.from_numpy(self._shard.x_test[chosen].copy()), torch.from_numpy(self._shard.y_test[chosen].copy())

    def _scaled(self, mean: torch.Tensor, ticket: Ticket, samples: int) -> torch.Tensor:
        """A micro-batch's mean × its samples / the batch's samples; the mean itself where it is the whole batch."""
        batch = sum(len(part) for part in self._indices(ticket))
        return mean if samples == batch else mean * samples / batch

    def _loss_and_gradient(self, ticket: Ticket, value: torch.Tensor) -> tuple[float, torch.Tensor]:
        _, labels = self._samples(ticket)
        output = self._last.forward(ticket, value).requires_grad_()
        if output.shape[0] != len(labels):
            raise UsageError(f"an activation of {output.shape[0]} rows came back for {len(labels)} samples")
        mean = functional.cross_entropy(output, labels)
        self._scaled(mean, ticket, len(labels)).backward()  # type: ignore[no-untyped-call]
        assert output.grad is not None
        gradient = self._last.backward(ticket, output.grad)
        assert gradient is not None
        return mean.item() * len(labels), gradient
