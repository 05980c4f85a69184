"""The cost of each block of a model, found on the meta device. Nothing is allocated, and no generator is advanced.

Without a measured profile, cuts and memory are decided from these numbers. Sizes are exact for fp32 on a CPU; time is
taken as proportional to FLOPs. Nothing here may build real weights, because a planner has no room for them.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from mpsl.errors import UsageError
from mpsl.nn.models import build, input_shape


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
    """The output's shape for one sample."""
    output_bytes: int
    """The output's bytes for the batch."""
    stored_bytes: int
    """Bytes of tensors that this block makes and that it or the next block keeps for backward.

    A part keeps at most the sum of its blocks, and its own input.
    """
    flops: int
    """Operations of the forward pass of the batch; a multiplication with an addition counts as two."""


def block_costs(name: str, args: dict[str, Any], batch_size: int) -> tuple[BlockCost, ...]:
    """Return the cost of each block of model `name` for batches of `batch_size`.

    Raises UsageError for an unknown model or argument, and if a BatchNorm would see one value per channel.
    """
    if batch_size < 1:
        raise UsageError(f"model {name}: a batch of {batch_size} samples has no cost; it must hold at least 1")
    if batch_size == 1 and (norms := single_value_norms(name, args)):
        raise UsageError(
            f"model {name}: with 1 sample, {norms[0]} would normalise one value per channel; take 2 or more"
        )
    with _meta():
        model = build(name, **args)
        data = batch = torch.empty(batch_size, *input_shape(name, **args))
        weights = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
        owners = {_storage(data): -1}  # the block that made each storage; the data belongs to none
        stored: dict[int, torch.UntypedStorage] = {}  # keeps the storages alive, so that their keys are not reused
        outputs: list[torch.Tensor] = []
        flops: list[int] = []
        for number, block in enumerate(model):

            def keep(tensor: torch.Tensor, number: int = number) -> torch.Tensor:
                stored[_storage(tensor)] = tensor.untyped_storage()
                owners.setdefault(_storage(tensor), number)
                return tensor

            counter = FlopCounterMode(display=False)
            with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                batch = block(batch)
            owners.setdefault(_storage(batch), number)
            outputs.append(batch)
            flops.append(counter.get_total_flops())
    stored_bytes = [0] * len(model)
    for key, storage in stored.items():
        if key not in weights and owners[key] >= 0:
            stored_bytes[owners[key]] += storage.nbytes()
    return tuple(
        BlockCost(
            name=_block_name(number, block),
            parameters=sum(parameter.numel() for parameter in block.parameters()),
            parameter_bytes=sum(parameter.nbytes for parameter in block.parameters()),
            buffer_bytes=sum(buffer.nbytes for buffer in block.buffers()),
            output_shape=tuple(outputs[number].shape[1:]),
            output_bytes=outputs[number].nbytes,
            stored_bytes=stored_bytes[number],
            flops=flops[number],
        )
        for number, block in enumerate(model)
    )


def single_value_norms(name: str, args: dict[str, Any]) -> tuple[str, ...]:
    """Return the BatchNorms that see one value per channel, and so cannot train, in a micro-batch of one sample.

    The names are those of `build(...).named_modules()` and begin with the block's index: `"8.body.1"`. Raises
    UsageError for an unknown model or argument.
    """
    found: list[str] = []
    with _meta():
        model = build(name, **args).eval()  # in training mode torch would raise at the first one
        for path, module in model.named_modules():
            if isinstance(module, _BatchNorm):

                def look(_: nn.Module, inputs: tuple[torch.Tensor], path: str = path) -> None:
                    if inputs[0].numel() == inputs[0].shape[1]:
                        found.append(path)

                module.register_forward_pre_hook(look)
        model(torch.empty(1, *input_shape(name, **args)))
    return tuple(found)


@contextlib.contextmanager
def _meta() -> Iterator[None]:
    """Tensors made in the block have no memory, and torch's generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.enable_grad():
        yield


def _storage(tensor: torch.Tensor) -> int:
    """The identity of a tensor's storage while it lives. Addresses do not help: on the meta device all are 0."""
    return int(tensor.untyped_storage()._cdata)


def _block_name(number: int, block: nn.Module) -> str:
    layers = list(block) if isinstance(block, nn.Sequential) else [block]
    return f"{number} " + "+".join(type(layer).__name__.lstrip("_") for layer in layers)
