"""The orchestrator's jobs: build the model, lay out its parts, fold and divide sums, write checkpoints and records."""

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpsl import facts
from mpsl.aggregation import aggregations, is_foldable
from mpsl.errors import RunFailed
from mpsl.job import Job
from mpsl.machines.jobs import Export, Exported, Leave, Result, WorkerJob
from mpsl.machines.orchestrator_jobs import (
    Average,
    BuildModel,
    Checkpoint,
    CheckUpdate,
    FindBetterPlan,
    FindPlan,
    Finish,
    FoldUpdate,
    LaidOut,
    LayOut,
    PlanFound,
    RecordRound,
    TakeSums,
    WriteSavepoint,
)
from mpsl.machines.session_id import SessionId
from mpsl.machines.unfinished import Unfinished
from mpsl.messages import Slice
from mpsl.nn import weights
from mpsl.nn.block_model import block_model, refuse_inexact
from mpsl.nn.part import frozen_tensors, state_tensors, trained_tensors
from mpsl.nn.weights import WeightCodec
from mpsl.plan import Plan
from mpsl.planning.objective import Shape
from orchestrator.chosen_plan import MAX_CHOICE_S, better_plan, chosen_plan
from orchestrator.device_parts import DeviceParts
from orchestrator.facts_of_model import facts_of_model
from orchestrator.records import Records
from orchestrator.savepoint_file import SavepointFile
from orchestrator.start_weights import built_and_loaded
from orchestrator.unfinished_run import load_model

Arrays = list[NDArray[Any]]


class OrchestratorPerformer:
    """Performs the jobs of one run, one at a time, with its files in `out`. `summary` is the summary as written."""

    def __init__(self, out: Path, run: str = "", unfinished: Unfinished | None = None) -> None:
        self.summary: dict[str, Any] | None = None
        self._records = Records(out, run)
        self._out = out
        self._savepoint_file = SavepointFile(out, run)
        self._unfinished = unfinished
        self._plan: Plan | None = None
        self._staged: dict[tuple[str, int], list[Arrays]] = {}
        self._seat_parts: dict[str, Arrays] = {}
        """What a seat sends: its sum where that is to be merged, else its committed part."""
        self._saved_parts: dict[str, Arrays] = {}
        """The sums of the seats for a savepoint."""
        self._saved_device_sums: list[Arrays] = []
        self._version = 0 if unfinished is None else unfinished.committed
        """The round of the devices' parts, which may be one ahead of what is on disk."""
        self._recorded_devices = 0
        """The last round whose devices are recorded; the round itself may still have to be tried again."""

    def write(self, source: str, message: Slice, session: SessionId | None = None) -> None:
        """Store a slice: of a device's update in its staging memory, of a seat's part in the memory for that."""
        plan = self._need()
        seat = plan.seat_of(source)
        if seat is not None and message.purpose == "savepoint":
            if seat.address not in self._saved_parts:
                self._saved_parts[seat.address] = [np.empty_like(array) for array in self._stages[seat.stage]]
            weights.write(self._saved_parts[seat.address], message)
        elif seat is not None:
            weights.write(self._seat_parts[seat.address], message)
        else:
            self._device_parts.write_update(self._staging(source, message.attempt), message)

    def perform(self, job: WorkerJob, session: SessionId | None = None) -> Result:
        """Do one job. Raises whatever the job raises."""
        return self._perform(job)

    @functools.singledispatchmethod
    def _perform(self, job: WorkerJob) -> Result:
        raise NotImplementedError(f"the orchestrator has no job {type(job).__name__}")

    @_perform.register
    def _build(self, job: BuildModel) -> Result:
        training: Job = job.job
        torch.manual_seed(training.run.seed)
        self._model = built_and_loaded(training.model)
        self._section = training.model
        refuse_inexact(self._section, self._model)
        if self._unfinished is None or self._unfinished.committed == 0:
            self._records.save_model("initial.safetensors", dict(state_tensors(self._model)), self._section, 0)
        else:
            self._load(self._unfinished.committed)
        return facts_of_model(training)

    @_perform.register
    def _find_plan(self, job: FindPlan) -> Result:
        return PlanFound(chosen_plan(job.profile, job.fleet, Shape(job.hops), within_s=MAX_CHOICE_S))

    @_perform.register
    def _find_better(self, job: FindBetterPlan) -> Result:
        return better_plan(job)

    @_perform.register
    def _lay_out(self, job: LayOut) -> Result:
        plan = job.plan
        if plan.round != self._version:
            self._load(plan.round)
        self._plan = plan
        self._rule = aggregations.get(plan.job.run.algorithm)
        wire = plan.job.wire
        parts = (self._tensors(blocks) for blocks in (plan.first_blocks, plan.last_blocks))
        self._device_parts = DeviceParts(parts, WeightCodec(wire.weights), wire.chunk_bytes)
        self._device_sums = self._empty_sums()
        if job.savepoint is not None:
            self._savepoint_file.read_all(self._device_arrays(self._device_sums), 0)
        self._stages = {seat.stage: weights.arrays_of(self._tensors(seat.blocks)) for seat in plan.seats}
        self._seat_parts = {seat.address: [np.empty_like(a) for a in self._stages[seat.stage]] for seat in plan.seats}
        predicted = {} if job.predicted is None else {"predicted": facts.plain(job.predicted)}
        links = {"links": facts.plain(job.links)} if job.links else {}
        self._records.save_plan(facts.plain(plan) | predicted | links)
        self._records.save_manifest(job.manifest)
        first_and_last = (self._frozen(blocks) for blocks in (plan.first_blocks, plan.last_blocks))
        self._frozen_parts = {0: list(first_and_last)} | {
            seat.stage: [self._frozen(seat.blocks)] for seat in plan.seats
        }
        order = sorted(self._stages)
        whole = (itertools.chain(self._stages[stage], *self._frozen_parts[stage]) for stage in order)
        return LaidOut(
            self._device_parts.update_bytes,
            tuple(weights.weights_bytes(self._stages[stage]) for stage in order),
            tuple(map(weights.digest, whole)) if plan.term > 1 else (),
            any(arrays for parts in self._frozen_parts.values() for arrays in parts),
        )

    @_perform.register
    def _export(self, job: Export) -> Result:
        chunk = self._need().job.wire.chunk_bytes
        if job.purpose == "frozen":
            parts = enumerate(self._frozen_parts[job.part], start=job.part)
            return Exported(
                [each for number, arrays in parts for each in weights.slices(arrays, "frozen", 0, 0, number, chunk)]
            )
        if job.purpose == "savepoint":
            sums = [np.empty_like(array) for array in self._stages[job.part]]
            self._savepoint_file.read_all(self._named_arrays(self._stages[job.part], sums), job.replica)
            return Exported(list(weights.slices(sums, "savepoint", job.version, job.attempt, job.part, chunk)))
        if job.part:
            return Exported(list(weights.slices(self._stages[job.part], "global", job.version, 0, job.part, chunk)))
        return Exported(self._device_parts.slices(job.version))

    @_perform.register
    def _check(self, job: CheckUpdate) -> Result:
        parts = self._staged.get((job.device, job.attempt), [])
        _refuse(parts, is_foldable, f"the update of {job.device} is not finite, or too large to be summed up")
        return Result()

    @_perform.register
    def _leave(self, job: Leave) -> Result:
        """Drop received updates. What a new plan lays out replaces everything else."""
        self._staged.clear()
        self._saved_parts.clear()
        self._saved_device_sums = []
        return Result()

    @_perform.register
    def _fold(self, job: FoldUpdate) -> Result:
        staged = self._staged.pop((job.device, job.attempt))
        for sums, arrays in zip(self._device_sums, staged, strict=True):
            for total, array in zip(sums, arrays, strict=True):
                self._rule.fold(total, array, job.samples)
        return Result()

    @_perform.register
    def _take_sums(self, job: TakeSums) -> Result:
        self._saved_device_sums = [[array.copy() for array in arrays] for arrays in self._device_sums]
        return Result()

    @_perform.register
    def _write_savepoint(self, job: WriteSavepoint) -> Result:
        """Write the sums under the names of the model's tensors; a seat's replica precedes them."""
        sums = self._device_arrays(self._saved_device_sums)
        named = {(0, name): array for name, array in sums.items()}
        for seat in self._need().seats:
            part = self._saved_parts[seat.address]
            if weights.digest(part) != job.savepoint.digests[seat.address]:
                raise RunFailed(f"the sum of seat {seat.address} did not arrive as it was sent")
            for name, array in self._named_arrays(self._stages[seat.stage], part).items():
                named[seat.replica, name] = array
        self._savepoint_file.write(job.savepoint, named)
        self._saved_parts.clear()
        self._saved_device_sums = []
        return Result()

    def _device_arrays(self, arrays: list[Arrays]) -> dict[str, NDArray[Any]]:
        """Arrays like those of the devices' parts, by the names of the model's tensors."""
        flat = [array for part in self._device_parts.arrays for array in part]
        return self._named_arrays(flat, [array for part in arrays for array in part])

    def _named_arrays(self, like: Arrays, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Arrays like these tensors of the model, by the tensors' names."""
        names = {tensor.data_ptr(): name for name, tensor in state_tensors(self._model)}
        return {names[each.ctypes.data]: array for each, array in zip(like, arrays, strict=True)}

    @_perform.register
    def _average(self, job: Average) -> Result:
        """Divide the sums that are here. The last committed parts stay untouched until all averages are finite."""
        averages = list(zip(self._device_parts.arrays, self._device_sums, strict=True))
        averages += self._merged(job.digests)
        for _, sums in averages:
            for total in sums:
                self._rule.close(total, job.weight)
        self._device_parts.round_to_received(self._device_sums)
        _refuse([sums for _, sums in averages], _is_finite, f"the model of round {job.round} is not finite")
        for arrays, sums in averages:
            _copy(sums, arrays)
        self._version = job.round
        self._device_sums = self._empty_sums()
        self._staged.clear()
        return Result()

    def _merged(self, digests: Mapping[str, str]) -> list[tuple[Arrays, Arrays]]:
        """The committed parts of the stages with replicas, and the merged sums of these."""
        merged = []
        for stage, arrays in sorted(self._stages.items()):
            seats = sorted((seat for seat in self._need().seats if seat.stage == stage), key=lambda seat: seat.replica)
            if seats[0].address not in digests:
                continue
            sums = [self._received(seat.address, digests, "sum") for seat in seats]
            for other in sums[1:]:
                for total, array in zip(sums[0], other, strict=True):
                    self._rule.merge(total, array)
            merged.append((arrays, sums[0]))
        return merged

    def _received(self, address: str, digests: Mapping[str, str], what: str) -> Arrays:
        """What a seat has sent."""
        arrays = self._seat_parts[address]
        if weights.digest(arrays) != digests[address]:
            raise RunFailed(f"the {what} of seat {address} did not arrive as it was sent")
        return arrays

    @_perform.register
    def _checkpoint(self, job: Checkpoint) -> Result:
        """Write the model. The parts of the seats stay as they were until it is on disk."""
        stages = {seat.address: self._stages[seat.stage] for seat in self._need().seats}
        parts = [(stages[address], self._received(address, job.digests, "part")) for address in job.digests]
        _refuse([arrays for _, arrays in parts], _is_finite, f"the model of round {job.round} is not finite")
        self._records.save_model("model.safetensors", self._named(parts), self._section, job.round, job.commit)
        for arrays, received in parts:
            _copy(received, arrays)
        self._savepoint_file.remove()
        return Result()

    @_perform.register
    def _record(self, job: RecordRound) -> Result:
        # The line of the round is the last one: what stands there is whole.
        if self._recorded_devices != job.metrics["round"]:
            self._records.append_devices(job.devices)
            self._recorded_devices = job.metrics["round"]
        self._records.append_round(job.metrics)
        return Result()

    @_perform.register
    def _finish(self, job: Finish) -> Result:
        self.summary = self._records.save_summary(job.summary)
        return Result()

    def fail(self, summary: dict[str, Any]) -> None:
        """Write the summary of a run that failed before its first job."""
        self.summary = self._records.save_summary(summary)

    def _need(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("no run is laid out")
        return self._plan

    def _tensors(self, blocks: tuple[int, int]) -> list[tuple[str, torch.Tensor]]:
        """What trains of these blocks."""
        named = dict(trained_tensors(self._model))
        return [(name, named[name]) for name in block_model(self._section).state_names(*blocks) if name in named]

    def _frozen(self, blocks: tuple[int, int]) -> Arrays:
        """The parameters of these blocks that do not train."""
        named = dict(frozen_tensors(self._model))
        names = block_model(self._section).state_names(*blocks)
        return weights.arrays_of((name, named[name]) for name in names if name in named)

    def _empty_sums(self) -> list[Arrays]:
        return [[self._rule.empty(array) for array in arrays] for arrays in self._device_parts.arrays]

    def _named(self, parts: list[tuple[Arrays, Arrays]]) -> dict[str, torch.Tensor]:
        """Return the model's tensors by name, with the values that are to replace those of some parts."""
        pairs = (pair for arrays, received in parts for pair in zip(arrays, received, strict=True))
        by_memory = {array.ctypes.data: value for array, value in pairs}
        found = {}
        for name, tensor in state_tensors(self._model):
            value = by_memory.get(tensor.data_ptr())
            found[name] = tensor if value is None else torch.from_numpy(value).reshape(tensor.shape)
        return found

    def _load(self, round: int) -> None:
        """Read the model of a round that is on disk."""
        load_model(self._out / ("model.safetensors" if round else "initial.safetensors"), state_tensors(self._model))
        self._version = round

    def _staging(self, device: str, attempt: int) -> list[Arrays]:
        key = (device, attempt)
        if key not in self._staged:
            for old in [k for k in self._staged if k[0] == device]:
                del self._staged[old]
            self._staged[key] = self._device_parts.empty()
        return self._staged[key]


def _copy(values: Arrays, arrays: Arrays) -> None:
    for array, value in zip(arrays, values, strict=True):
        array[...] = value


def _refuse(parts: list[Arrays], is_sound: Callable[[NDArray[Any]], bool], what: str) -> None:
    """Raise RunFailed, which says `what` is wrong, if an array is not sound."""
    for number, arrays in enumerate(parts):
        for index, array in enumerate(arrays):
            if not is_sound(array):
                where = f"(tensor {index} of part {number})"
                raise RunFailed(f"{what} {where}: a smaller lr, or scaled samples, may help")


def _is_finite(array: NDArray[Any]) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
