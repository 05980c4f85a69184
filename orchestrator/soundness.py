"""Checks without a fleet whether a job can run, who computes what, and what each edge carries.

It reads the job, the model on the meta device and, if given, the shards. It must never build real weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpsl.batches import batches_per_epoch, smallest_micro_batch
from mpsl.codecs import parse
from mpsl.cuts import even_cuts
from mpsl.errors import UsageError
from mpsl.job import Job
from mpsl.nn.block_model import check_shard
from mpsl.nn.cost import BlockCost, block_costs, single_value_norms
from mpsl.nn.edges import EXACT, EdgeValue
from mpsl.nn.tensors import gradients_of
from mpsl.shard import Shard, read_shard
from orchestrator.start_weights import match_of


@dataclass(frozen=True)
class BlockRow:
    """One block: its place (`device` or `hop k`), its size, its output for a full batch, its share of the compute."""

    index: int
    name: str
    where: str
    parameters: int
    output_shape: tuple[int, ...]
    compute_share: float


@dataclass(frozen=True)
class PartRow:
    """One part: its blocks [a, b), its share of all parameters and of the compute."""

    where: str
    blocks: tuple[int, int]
    parameters: int
    compute_share: float


@dataclass(frozen=True)
class EdgeRow:
    """One cut: the bytes that cross it for a full batch, forward and back, as the job's codecs write them.

    `tensors` is how many values cross; `shape` is that of the last one.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    forward_bytes: int
    backward_bytes: int
    tensors: int = 1


@dataclass(frozen=True)
class DeviceRow:
    """One shard: the batches of a round, and the fewest samples in a forward pass."""

    id: str
    samples: int
    test_samples: int
    batches_per_round: int
    smallest_micro_batch: int


@dataclass(frozen=True)
class Outlook:
    """The result of a check. The job is sound if `problems` is empty; `notes` are not problems."""

    cuts: tuple[int, ...]
    blocks: tuple[BlockRow, ...]
    parts: tuple[PartRow, ...]
    edges: tuple[EdgeRow, ...]
    devices: tuple[DeviceRow, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())


def outlook(job: Job, where: str, shards: Mapping[str, Path] | None = None) -> Outlook:
    """Check a job that `check_job` has accepted, with the shards in these files. `where` names the job."""
    costs = block_costs(job.model, max(2, job.run.batch_size))
    flops = [float(cost.flops) for cost in costs]
    cuts = tuple(even_cuts(flops, job.hops)) if job.model.cuts is None else job.model.cuts
    parts = _parts(costs, cuts)
    owners = [part.where for part in parts for _ in range(*part.blocks)]
    blocks = tuple(
        BlockRow(i, cost.name.partition(" ")[2], owners[i], cost.parameters, cost.output_shape, _share(flops, i, i + 1))
        for i, cost in enumerate(costs)
    )
    edges = tuple(_edge(job, parts[i].where, parts[i + 1].where, costs[cut - 1]) for i, cut in enumerate(cuts))
    loaded, problems = _load(shards or {}, job)
    devices = tuple(_device(job, id, shard) for id, shard in loaded.items())
    problems += _norm_problems(job, where, devices)
    if shards is not None and len(shards) < job.fleet.devices:
        problems.append(f"{where}: fleet.devices = {job.fleet.devices}, but there are {len(shards)} shards")
    notes = _notes(job, devices, None if shards is None else len(shards))
    notes += [warning for shard in loaded.values() for warning in shard.warnings()]
    return Outlook(cuts, blocks, parts, edges, devices, tuple(notes), tuple(problems))


def _parts(costs: tuple[BlockCost, ...], cuts: tuple[int, ...]) -> tuple[PartRow, ...]:
    bounds = [0, *cuts, len(costs)]
    names = ["device", *(f"hop {k}" for k in range(1, len(cuts))), "device"] if cuts else ["device"]
    flops = [float(cost.flops) for cost in costs]
    return tuple(
        PartRow(name, (first, end), sum(cost.parameters for cost in costs[first:end]), _share(flops, first, end))
        for name, first, end in zip(names, bounds, bounds[1:], strict=False)
    )


def _share(flops: list[float], first: int, end: int) -> float:
    return round(sum(flops[first:end]) / (sum(flops) or 1.0), 4)


def _edge(job: Job, source: str, target: str, cost: BlockCost) -> EdgeRow:
    # Costs are those of at least two samples.
    batch = job.run.batch_size
    forward = sum(_wire_bytes(value, value.codec(job.wire.activations), batch) for value in cost.edge)
    backward = sum(_wire_bytes(value, value.codec(job.wire.gradients), batch) for value in gradients_of(cost.edge))
    return EdgeRow(source, target, cost.output_shape, forward, backward, len(cost.edge))


def _wire_bytes(value: EdgeValue, codec: str, batch: int) -> int:
    costed = max(2, batch)
    if codec == EXACT:
        return value.nbytes * batch // costed
    shape = (batch, *value.shape[1:]) if value.shape[:1] == (costed,) else value.shape
    return parse(codec).wire_bytes(shape)


def _load(shards: Mapping[str, Path], job: Job) -> tuple[dict[str, Shard], list[str]]:
    """Return the shards that fit the model, and the problems of the others."""
    found: dict[str, Shard] = {}
    problems = []
    for id, path in shards.items():
        try:
            shard = read_shard(path)
            check_shard(shard, job.model)
            found[id] = shard
        except UsageError as error:
            problems.append(str(error))
    return found, problems


def _device(job: Job, id: str, shard: Shard) -> DeviceRow:
    run = job.run
    return DeviceRow(
        id,
        shard.samples,
        shard.test_samples,
        run.local_epochs * batches_per_epoch(shard.samples, run.batch_size),
        smallest_micro_batch(shard.samples, run.batch_size, run.micro_batches),
    )


def _norm_problems(job: Job, where: str, devices: tuple[DeviceRow, ...]) -> list[str]:
    """Return the BatchNorms that would see one value per channel, in a full batch or in a device's last one."""
    norms = single_value_norms(job.model)
    if not norms:
        return []
    run = job.run
    steps = f"batch_size = {run.batch_size} and micro_batches = {run.micro_batches}"
    why = f"the BatchNorm {norms[0]} would see one value per channel and cannot train"
    if smallest_micro_batch(run.batch_size, run.batch_size, run.micro_batches) == 1:
        return [f"{where}: {steps} make micro-batches of 1 sample: {why}; make batch_size at least twice micro_batches"]
    return [
        f"{where}: {device.id} has {device.samples} samples; {steps} leave it a micro-batch of 1 sample: {why}; "
        "choose a batch_size that leaves another remainder, or change the shard"
        for device in devices
        if device.smallest_micro_batch == 1
    ]


def _notes(job: Job, devices: tuple[DeviceRow, ...], shards: int | None) -> list[str]:
    notes = []
    found = match_of(job.model)
    if found is not None and (different := found.in_words()):
        notes.append(f"{job.model.weights}: {different}; those of the model keep their initial values")
    if job.model.cuts is None and job.hops:
        notes.append("no cuts: even ones by estimated compute are shown; a run plans them from measurements")
    if job.fleet.nodes > job.hops:
        notes.append(
            f"{job.fleet.nodes - job.hops} of the {job.fleet.nodes} nodes are standbys: there are {job.hops} hops"
        )
    if job.quorum == job.fleet.devices and job.fleet.devices > 1:
        notes.append("the quorum is all devices, so a lost device ends the run; a smaller fleet.quorum avoids that")
    if shards is not None and shards > job.fleet.devices:
        notes.append(f"{shards} shards for {job.fleet.devices} devices: `mpsl local` starts a device for each")
    if devices and not any(device.test_samples for device in devices):
        notes.append("no shard has x_test, so there will be no accuracy")
    return notes
