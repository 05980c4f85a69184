"""The hop's jobs: the committed part, a copy of it for every admitted device, the round's sum."""

import copy
import functools
import hashlib
import time
from dataclasses import replace
from pathlib import Path

import torch

from compute_node.memory_usage import MemoryPeaks
from compute_node.storage import DIRECTORY, Storage
from mpsl.aggregation import Array, aggregations
from mpsl.machines.jobs import (
    Backward,
    BlocksMeasured,
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
    Leave,
    MeasureBlocks,
    Prepare,
    Prepared,
    Result,
)
from mpsl.machines.session_id import SessionId
from mpsl.messages import Slice
from mpsl.nn import tensors, weights
from mpsl.nn.allocation import trim_heap
from mpsl.nn.part import meta_part, probe, state_tensors
from mpsl.nn.profiler import Profiler
from mpsl.nn.training_copy import TrainingCopy
from mpsl.plan import Plan

PIECE = 1 << 20
"""Elements of a sum that are emptied at a time, so that their like needs no memory of the tensor's size."""


class HopPerformer:
    """Performs the jobs of one compute node, one at a time; files that memory has no room for go to `scratch`.

    `trim_eagerly`: what a device leaves free goes back to the system at once, not only at the end of a run.
    """

    def __init__(
        self, id: str, scratch: Path = DIRECTORY, profiler: Profiler | None = None, trim_eagerly: bool = True
    ) -> None:
        self._id = id
        self._thrifty = trim_eagerly
        self._profiler = profiler
        self._scratch = scratch
        self._plan: Plan | None = None
        self._copies: dict[str, TrainingCopy] = {}
        self._coding = tensors.Coding(time.thread_time)

    @property
    def copies_alive(self) -> int:
        """How many devices have a copy here now."""
        return len(self._copies)

    def write(self, source: str, message: Slice, session: SessionId | None = None) -> None:
        """Take a slice in: into the committed part while loading, into the sum's memory when replicas merge."""
        storage = self._committed if message.version == self._version else self._sum
        weights.write(storage.arrays, message)

    def perform(self, job: Job, session: SessionId | None = None) -> Result:
        """Do one job, and say who holds how much now; raises what goes wrong."""
        result = self._perform(job)
        if self._plan is None:
            return result
        self._peaks.update(self._committed, self._sum, self._copies.values())
        return replace(result, memory=self._peaks.report(), coding_s=self._coding.take())

    @functools.singledispatchmethod
    def _perform(self, job: Job) -> Result:
        raise NotImplementedError(f"a compute node has no job {type(job).__name__}")

    @_perform.register
    def _measure(self, job: MeasureBlocks) -> Result:
        if self._profiler is None:
            raise RuntimeError("this node cannot measure")
        times = self._profiler.answer(job.question)
        trim_heap()
        return BlocksMeasured(times)

    @_perform.register
    def _prepare(self, job: Prepare) -> Result:
        seat = job.plan.seat_of(self._id)
        if seat is None:
            raise RuntimeError(f"the plan has no seat for {self._id}")
        self._peaks = MemoryPeaks()
        self._version = 0
        self._seat = seat
        self._bare = meta_part(job.plan.job.model, seat.blocks)
        directory = self._scratch if seat.on_disk else None
        self._committed, self._sum = Storage(self._bare, directory), Storage(self._bare, directory)
        self._part = meta_part(job.plan.job.model, seat.blocks)
        self._part.load_state_dict(self._committed.tensors(), assign=True)
        self._rule = aggregations.get(job.plan.job.run.algorithm)
        for total in self._sum.each():
            self._reset(total)
        self._plan = job.plan
        return Prepared(self._committed.nbytes)

    @_perform.register
    def _leave(self, job: Leave) -> Result:
        self._plan = None
        self._copies.clear()
        for name in ("_part", "_bare", "_committed", "_sum"):
            self.__dict__.pop(name, None)
        trim_heap()
        return Result()

    @_perform.register
    def _copy(self, job: CopyPart) -> Result:
        training = self._need().job
        # What loading, merging or an evaluation left resident.
        self._committed.evict_pages()
        self._sum.evict_pages()
        part = copy.deepcopy(self._bare).to_empty(device="cpu")
        for array, empty in zip(self._committed.each(), weights.arrays_of(state_tensors(part)), strict=True):
            empty[...] = array
        self._copies[job.device] = TrainingCopy(
            part, training.optimizer, training.run.seed, input_gradient=True, recompute=self._seat.recompute
        )
        return Result()

    @_perform.register
    def _drop(self, job: DropCopy) -> Result:
        self._copies.pop(job.device, None)
        if self._thrifty:
            trim_heap()
        return Result()

    @_perform.register
    def _forward(self, job: Forward) -> Result:
        value = self._decode(job, self._need().job.wire.activations)
        return self._encode(
            self._copies[job.ticket.device].forward(job.ticket, value), self._need().job.wire.activations
        )

    @_perform.register
    def _backward(self, job: Backward) -> Result:
        training = self._copies[job.ticket.device]
        gradient = training.backward(job.ticket, self._decode(job, self._need().job.wire.gradients))
        assert gradient is not None
        return self._encode(gradient, self._need().job.wire.gradients)

    @_perform.register
    def _forward_probe(self, job: ForwardProbe) -> Result:
        codec = self._need().job.wire.activations
        return self._encode(probe(self._part, self._decode(job, codec)), codec)

    @_perform.register
    def _fold(self, job: Fold) -> Result:
        # The optimizer's state goes before the sum's pages come.
        part = self._copies.pop(job.device).part
        for total, array in zip(self._sum.each(), weights.arrays_of(state_tensors(part)), strict=True):
            self._rule.fold(total, array, job.samples)
        del part, array
        if self._thrifty:
            trim_heap()
        return Result()

    @_perform.register
    def _export(self, job: Export) -> Result:
        seat = self._need().seat_of(self._id)
        assert seat is not None
        arrays, chunk = self._sum.arrays, self._need().job.wire.chunk_bytes
        found = list(weights.slices(arrays, "sum", job.version, 0, seat.stage, chunk))
        digest = hashlib.blake2b(digest_size=16)
        for array in self._sum.each():
            digest.update(array.data.cast("B"))
        return Exported(found, digest.hexdigest())

    @_perform.register
    def _commit(self, job: CommitPart) -> Result:
        for total, array in zip(self._sum.each(), self._committed.each(), strict=True):
            if not job.merged:
                self._rule.close(total, job.weight)
            array[...] = total
            self._reset(total)
        self._version = job.round
        return Result()

    def _reset(self, total: Array) -> None:
        for start in range(0, total.size, PIECE):
            piece = total[start : start + PIECE]
            piece[...] = self._rule.empty(piece)

    def _need(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("no run is prepared")
        return self._plan

    def _decode(self, job: Forward | Backward | ForwardProbe, codec: str) -> torch.Tensor:
        return self._coding.decode(job.tensor, codec, self._need().message_bytes)

    def _encode(self, tensor: torch.Tensor, codec: str) -> Encoded:
        return Encoded(self._coding.encode(tensor, codec))
