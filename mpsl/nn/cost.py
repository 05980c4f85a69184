"""The cost of each block of a model, found on the meta device. Nothing is allocated, and no generator is advanced.

Without a measured profile, cuts and memory are decided from these numbers. Sizes are exact for fp32 on a CPU; time is
taken as proportional to FLOPs. Nothing here may build real weights, because a planner has no room for them.
"""

import dataclasses

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.nn.block_model import BlockModel, ChainModel, block_model, imagined
from mpsl.nn.edges import SINGLE, Edge, Values, single_edge
from mpsl.nn.part import numbered_blocks


@dataclasses.dataclass(frozen=True)
class BlockCost:
    """One block in training, for a batch of one size."""

    name: str
    """Its index and the kinds of its layers, `"2 Conv2d+BatchNorm2d+ReLU+MaxPool2d"`."""
    parameters: int
    """The number of trainable values."""
    parameter_bytes: int
    buffer_bytes: int
    """Bytes of running statistics and the like. They are sent and averaged with the weights, but never stepped."""
    output_shape: tuple[int, ...]
    """The shape for one sample of the output, or of the last one of what crosses a cut after this block."""
    output_bytes: int
    """The bytes for the batch of everything that crosses a cut after this block."""
    stored_bytes: int
    """Bytes of tensors that this block makes and that it or the next block keeps for backward.

    A part keeps at most the sum of its blocks, and its own input.
    """
    flops: int
    """Operations of the forward pass of the batch; a multiplication with an addition counts as two."""
    edge: Edge = SINGLE
    """What crosses a cut after this block."""
    frozen_bytes: int = 0
    """Bytes of parameters that do not train: one of each at a node, however many devices it serves."""


def block_costs(section: ModelSection, batch_size: int) -> tuple[BlockCost, ...]:
    """Return the cost of each block of a job's model for batches of `batch_size`.

    Raises UsageError for an unknown model or argument, and if a BatchNorm would see one value per channel.
    """
    if batch_size < 1:
        raise UsageError(f"model {section.name}: a batch of {batch_size} samples has no cost; it must hold at least 1")
    model = block_model(section)
    if batch_size == 1 and (norms := model.single_value_norms()):
        raise UsageError(
            f"model {section.name}: with 1 sample, {norms[0]} would normalise one value per channel; take 2 or more"
        )
    with imagined(model, batch_size) as (part, values):
        weights = {_storage(tensor) for tensor in (*part.parameters(), *part.buffers())}
        owners = {_storage(value): -1 for value in values}  # the block that made each storage; the data belongs to none
        stored: dict[int, torch.UntypedStorage] = {}  # keeps the storages alive, so that their keys are not reused
        crossing, outputs = values, list[Values]()
        flops: list[int] = []
        for number, block in numbered_blocks(part, values):

            def keep(tensor: torch.Tensor, number: int = number) -> torch.Tensor:
                stored[_storage(tensor)] = tensor.untyped_storage()
                owners.setdefault(_storage(tensor), number)
                return tensor

            counter = FlopCounterMode(display=False)
            with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                crossing = block(crossing)
            for value in crossing:
                owners.setdefault(_storage(value), number)
            outputs.append(crossing)
            flops.append(counter.get_total_flops())
        stored_bytes = [0] * len(model)
        for key, storage in stored.items():
            if key not in weights and owners[key] >= 0:
                stored_bytes[owners[key]] += storage.nbytes()
        state = part.state_dict(keep_vars=True)
    return tuple(
        _cost(
            model,
            number,
            state,
            _edge(model, number + 1, outputs[number], batch_size),
            flops[number],
            stored_bytes[number],
            batch_size,
        )
        for number in range(len(model))
    )


def _cost(
    model: BlockModel,
    number: int,
    state: dict[str, torch.Tensor],
    edge: Edge,
    flops: int,
    stored_bytes: int,
    batch_size: int,
) -> BlockCost:
    owned = [state[name] for name in model.state_names(number, number + 1)]
    parameters = [tensor for tensor in owned if isinstance(tensor, nn.Parameter)]
    trained = [tensor for tensor in parameters if tensor.requires_grad]
    buffers = [tensor for tensor in owned if not isinstance(tensor, nn.Parameter)]
    return BlockCost(
        name=model.block_name(number),
        parameters=sum(tensor.numel() for tensor in trained),
        parameter_bytes=sum(tensor.nbytes for tensor in trained),
        buffer_bytes=sum(tensor.nbytes for tensor in buffers),
        output_shape=edge[-1].sample_shape(batch_size),
        output_bytes=sum(value.nbytes for value in edge),
        stored_bytes=stored_bytes,
        flops=flops,
        edge=edge,
        frozen_bytes=sum(tensor.nbytes for tensor in parameters) - sum(tensor.nbytes for tensor in trained),
    )


def _edge(model: BlockModel, cut: int, values: Values, batch_size: int) -> Edge:
    if isinstance(model, ChainModel):
        return single_edge(values[0], model.trains_before(cut))
    return model.edge(cut, batch_size)


def single_value_norms(section: ModelSection) -> tuple[str, ...]:
    """Return the BatchNorms that see one value per channel, and so cannot train, in a micro-batch of one sample.

    Raises UsageError for an unknown model or argument.
    """
    return block_model(section).single_value_norms()


def _storage(tensor: torch.Tensor) -> int:
    """The identity of a tensor's storage while it lives. Addresses do not help: on the meta device all are 0."""
    return int(tensor.untyped_storage()._cdata)
