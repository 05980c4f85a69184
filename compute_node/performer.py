"""The hop's jobs: the committed part, a copy of it for every admitted device, the round's sum."""

import copy
import functools
import hashlib

import torch

from compute_node.memory import give_back
from mpsl.aggregation import aggregations
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
    Leave,
    Prepare,
    Prepared,
    Result,
)
from mpsl.messages import Slice
from mpsl.nn import tensors, weights
from mpsl.nn.copy import Copy
from mpsl.nn.part import build_part, probe, state_tensors
from mpsl.plan import Plan


class HopPerformer:
    """Performs the jobs of one compute node, one at a time."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._plan: Plan | None = None
        self._copies: dict[str, Copy] = {}

    @property
    def copies_alive(self) -> int:
        """How many devices have a copy here now."""
        return len(self._copies)

    def write(self, source: str, message: Slice) -> None:
        """Take a slice of the committed part in: into the part while loading, into the sum's memory when replicas merge."""
        weights.write(self._committed if message.version == self._version else self._sum, message)

    @functools.singledispatchmethod
    def perform(self, job: Job) -> Result:
        """Do one job; raises what goes wrong."""
        raise NotImplementedError(f"a compute node has no job {type(job).__name__}")

    @perform.register
    def _prepare(self, job: Prepare) -> Result:
        seat = job.plan.seat_of(self._id)
        if seat is None:
            raise RuntimeError(f"the plan has no seat for {self._id}")
        self._plan = job.plan
        self._version = 0
        self._part = build_part(job.plan.job.model, seat.blocks)
        self._rule = aggregations.get(job.plan.job.run.algorithm)
        self._committed = weights.arrays_of(state_tensors(self._part))
        self._sum = [self._rule.empty(array) for array in self._committed]
        return Prepared(weights.weights_bytes(self._committed))

    @perform.register
    def _leave(self, job: Leave) -> Result:
        self._plan = None
        self._copies.clear()
        for name in ("_part", "_committed", "_sum"):
            self.__dict__.pop(name, None)
        give_back()
        return Result()

    @perform.register
    def _copy(self, job: CopyPart) -> Result:
        training = self._need().job
        self._copies[job.device] = Copy(
            copy.deepcopy(self._part), training.optimizer, training.run.seed, input_gradient=True
        )
        return Result()

    @perform.register
    def _drop(self, job: DropCopy) -> Result:
        self._copies.pop(job.device, None)
        give_back()
        return Result()

    @perform.register
    def _forward(self, job: Forward) -> Result:
        value = self._decode(job, self._need().job.wire.activations)
        return self._encode(
            self._copies[job.ticket.device].forward(job.ticket, value), self._need().job.wire.activations
        )

    @perform.register
    def _backward(self, job: Backward) -> Result:
        training = self._copies[job.ticket.device]
        gradient = training.backward(job.ticket, self._decode(job, self._need().job.wire.gradients))
        assert gradient is not None
        return self._encode(gradient, self._need().job.wire.gradients)

    @perform.register
    def _forward_probe(self, job: ForwardProbe) -> Result:
        codec = self._need().job.wire.activations
        return self._encode(probe(self._part, self._decode(job, codec)), codec)

    @perform.register
    def _fold(self, job: Fold) -> Result:
        folded = self._copies.pop(job.device)
        for total, array in zip(self._sum, weights.arrays_of(state_tensors(folded.part)), strict=True):
            self._rule.fold(total, array, job.samples)
        del folded
        give_back()
        return Result()

    @perform.register
    def _export(self, job: Export) -> Result:
        seat = self._need().seat_of(self._id)
        assert seat is not None
        found = list(weights.slices(self._sum, "sum", job.version, 0, seat.stage, self._need().job.wire.chunk_bytes))
        digest = hashlib.blake2b(digest_size=16)
        for array in self._sum:
            digest.update(memoryview(array).cast("B"))
        return Exported(found, digest.hexdigest())

    @perform.register
    def _commit(self, job: CommitPart) -> Result:
        for total, array in zip(self._sum, self._committed, strict=True):
            if not job.merged:
                self._rule.close(total, job.weight)
            array[...] = total
            total[...] = self._rule.empty(total)
        self._version = job.round
        return Result()

    def _need(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("no run is prepared")
        return self._plan

    def _decode(self, job: Forward | Backward | ForwardProbe, codec: str) -> torch.Tensor:
        return tensors.decode(job.tensor, codec, self._need().message_bytes)

    def _encode(self, tensor: torch.Tensor, codec: str) -> Encoded:
        return Encoded(tensors.encode(tensor, codec))
