"""The state of a node in one session, and the jobs that work on it.

The state is the committed part, a copy of it for every admitted device, and the round's sum. All of it belongs to the
session, and dropping this object frees it. Nothing here may be shared between sessions. torch's generator is seeded
before each block of a forward, so sessions whose jobs alternate compute what each would compute alone.
"""

import copy
import functools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from compute_node.detached import detached
from compute_node.memory_usage import MemoryPeaks
from compute_node.storage import Storage
from mpsl.aggregation import Array, aggregations, is_foldable
from mpsl.errors import RunFailed
from mpsl.learning_rate import rates_of
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
    Result,
    WorkerJob,
)
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice
from mpsl.nn import tensors, weights
from mpsl.nn.allocation import trim_heap
from mpsl.nn.block_model import block_model, refuse_difference
from mpsl.nn.part import allocated, edges_of, frozen_tensors, probe, probe_edges_of, trained_tensors
from mpsl.nn.training_copy import TrainingCopy
from mpsl.plan import Plan, Seat

RESET_ELEMENTS = 1 << 20
"""The number of elements of a sum that are reset at a time, so that no second tensor of its size is needed."""


class SeatTraining:
    """The seat `seat` of `plan`, empty until slices are written. Files go to `scratch`.

    `trim_eagerly`: memory that a device frees is returned to the system at once. `base_bytes`: resident memory of
    the process before it held any session. `held`: the committed part of the term before, which may still be the right
    one, and its frozen parameters. Raises RunFailed if a file has no room.
    """

    def __init__(
        self,
        plan: Plan,
        seat: Seat,
        scratch: Path,
        trim_eagerly: bool,
        base_bytes: int,
        held: tuple[Storage, Storage] | None = None,
    ) -> None:
        self.promised_bytes = 0
        """The session's share of the node's memory budget."""
        self.id = SessionId(plan.run, plan.term)
        self._job = plan.job
        self._seat = seat
        self._trim_eagerly = trim_eagerly
        self._scratch = scratch
        self._peaks = MemoryPeaks(base_bytes)
        self._coding = tensors.Coding(time.thread_time, plan.job.wire, plan.message_bytes)
        self._version = plan.round
        model = block_model(plan.job.model)
        refuse_difference(model, plan.digests)
        self._meta = model.part(*seat.blocks)
        self._edges, self._probe_edges = edges_of(self._meta), probe_edges_of(self._meta)
        directory = scratch if seat.on_disk else None
        trained = trained_tensors(self._meta)
        self.committed, self.frozen = held or (Storage(trained, directory), Storage(frozen_tensors(self._meta)))
        self._sum = Storage(trained, directory)
        self._part = model.part(*seat.blocks)
        self._part.load_state_dict({**self.committed.tensors(), **self.frozen.tensors()}, assign=True)
        self.copies: dict[str, TrainingCopy] = {}
        """The copies by device."""
        self._rule = aggregations.get(plan.job.run.algorithm)
        for total in self._sum.each():
            self._reset(total)

    def holds(self, plan: Plan, seat: Seat) -> bool:
        """Whether the committed part has the shapes that `seat` of `plan` needs; its values may be of another round."""
        ours, theirs = self._job.model, plan.job.model
        same_part = (ours.uncut, self._seat.blocks) == (theirs.uncut, seat.blocks)
        return same_part and self._seat.on_disk == seat.on_disk

    def write(self, message: Slice) -> None:
        """Store a slice: of the committed part while loading, of the sum when replicas merge, or from a savepoint."""
        is_sum = message.purpose == "savepoint" or message.version != self._version
        storage = self.frozen if message.purpose == "frozen" else self._sum if is_sum else self.committed
        weights.write(storage.arrays, message)

    def perform(self, job: WorkerJob) -> Result:
        """Do one job. Its result reports the memory peaks by use. Raises whatever the job raises."""
        return self.reported(self._perform(job))

    def reported(self, result: Result) -> Result:
        """Add the session's memory peaks and the seconds spent in codecs to a result."""
        self._peaks.update(self.committed, self.frozen, self._sum, self.copies.values())
        return replace(result, memory=self._peaks.report(), coding_s=self._coding.take())

    @functools.singledispatchmethod
    def _perform(self, job: WorkerJob) -> Result:
        raise NotImplementedError(f"a compute node has no job {type(job).__name__}")

    @_perform.register
    def _copy(self, job: CopyPart) -> Result:
        # Loading, merging or an evaluation may have left pages in memory.
        self.committed.evict_pages()
        self._sum.evict_pages()
        part = allocated(copy.deepcopy(self._meta), self.frozen.tensors())
        for array, empty in zip(self.committed.each(), weights.arrays_of(trained_tensors(part)), strict=True):
            empty[...] = array
        self.copies[job.device] = TrainingCopy(
            part,
            self._job.optimizer,
            self._job.run.seed,
            input_gradient=True,
            recompute=self._seat.recompute,
            rates=rates_of(self._job, job.batches),
        )
        return Result()

    @_perform.register
    def _check(self, job: CheckCopy) -> Result:
        tensors_of_copy = trained_tensors(self.copies[job.device].part)
        for (name, _), array in zip(tensors_of_copy, weights.arrays_of(tensors_of_copy), strict=True):
            if not is_foldable(array):
                raise RunFailed(
                    f"the copy of {job.device} is not finite, or too large to be summed up ({name}): "
                    "a smaller lr, or scaled samples, may help"
                )
        return Result()

    @_perform.register
    def _drop(self, job: DropCopy) -> Result:
        self.copies.pop(job.device, None)
        if self._trim_eagerly:
            trim_heap()
        return Result()

    @_perform.register
    def _forward(self, job: Forward) -> Result:
        inputs, outputs = self._edges
        values = self._coding.decode_activations(job.tensor, inputs)
        made = self.copies[job.ticket.device].forward(job.ticket, values)
        return Encoded(self._coding.encode_activations(made, outputs))

    @_perform.register
    def _backward(self, job: Backward) -> Result:
        inputs, outputs = self._edges
        gradients = self._coding.decode_gradients(job.tensor, outputs)
        made = self.copies[job.ticket.device].backward(job.ticket, gradients)
        return Encoded(self._coding.encode_gradients(made, inputs))

    @_perform.register
    def _forward_probe(self, job: ForwardProbe) -> Result:
        inputs, outputs = self._probe_edges
        values = self._coding.decode_activations(job.tensor, inputs)
        return Encoded(self._coding.encode_activations(probe(self._part, values), outputs))

    @_perform.register
    def _fold(self, job: Fold) -> Result:
        # The optimizer's state is freed before the sum's pages are read in.
        part = self.copies.pop(job.device).part
        arrays = weights.arrays_of(trained_tensors(part))
        for number, total in enumerate(self._sum.each()):
            self._rule.fold(total, arrays[number], job.samples)
        del part, arrays
        if self._trim_eagerly:
            trim_heap()
        return Result()

    @_perform.register
    def _export(self, job: Export) -> Result:
        storage = self.committed if job.purpose == "part" else self._sum
        chunk, stage = self._job.wire.chunk_bytes, self._seat.stage
        found = list(weights.slices(storage.arrays, job.purpose, job.version, job.attempt, stage, chunk))
        if job.purpose == "savepoint":
            # The next fold changes the sum while this one is still being sent.
            found = detached(found, self._scratch if self._trim_eagerly else None)
            self._peaks.note("savepoint", 0 if self._trim_eagerly else storage.nbytes)
        return Exported(found, weights.digest(storage.each()))

    @_perform.register
    def _commit(self, job: CommitPart) -> Result:
        for total, array in zip(self._sum.each(), self.committed.each(), strict=True):
            if not job.merged:
                self._rule.close(total, job.weight)
                if array.dtype.kind == "f" and not np.isfinite(total).all():
                    raise RunFailed(f"the part of seat {self._seat.address} is not finite after round {job.round}")
            array[...] = total
            self._reset(total)
        self._version = job.round
        return Result()

    def _reset(self, total: Array) -> None:
        for start in range(0, total.size, RESET_ELEMENTS):
            piece = total[start : start + RESET_ELEMENTS]
            piece[...] = self._rule.empty(piece)
