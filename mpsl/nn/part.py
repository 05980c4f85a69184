"""A part of a model: consecutive blocks, under their names in the whole model, without the memory of the rest.

It must never change what a block computes. Exactness rests on a part being the same blocks as in the unsplit model.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mpsl.batches import block_seed
from mpsl.messages import Ticket
from mpsl.nn.edges import SINGLE, Edge, NumberedBlock, Values
from mpsl.nn.graph.graph_part import GraphPart

Part = nn.Sequential | GraphPart


class ChainPart(nn.Sequential):
    """Blocks `first_block` and on of an `nn.Sequential`, under their names there.

    `in_place`: the blocks that change their input; the first block of a part gets a copy of it, because the input of a
    part is kept.
    """

    def __init__(
        self,
        blocks: "OrderedDict[str, nn.Module]",
        first: int,
        in_place: frozenset[int],
        edges: tuple[Edge, Edge] = (SINGLE, SINGLE),
    ) -> None:
        super().__init__(blocks)
        self.first_block = first
        self.edges = edges
        self.copies_input = first in in_place


def edges_of(part: Part) -> tuple[Edge, Edge]:
    """Return what goes into a part and what comes out of it."""
    return part.edges if isinstance(part, GraphPart | ChainPart) else (SINGLE, SINGLE)


def probe_edges_of(part: Part) -> tuple[Edge, Edge]:
    """Return what goes into a part and what comes out of it in evaluation."""
    if isinstance(part, ChainPart):
        return part.edges
    return part.probe_edges if isinstance(part, GraphPart) else (SINGLE, SINGLE)


def numbered_blocks(part: Part, values: Values) -> Iterator[NumberedBlock]:
    """Yield a part's blocks with their numbers in the whole model; `values`: what goes into the part."""
    if isinstance(part, GraphPart):
        yield from part.numbered(values)
        return
    first = part.first_block if isinstance(part, ChainPart) else 0
    for offset, block in enumerate(part):
        copied = offset == 0 and isinstance(part, ChainPart) and part.copies_input
        yield first + offset, _of_one(block, copied)


def _of_one(block: nn.Module, copied: bool) -> Callable[[Values], Values]:
    def run(values: Values) -> Values:
        (value,) = values
        return (block(value.clone() if copied else value),)

    return run


def owners_of(part: Part) -> dict[nn.Parameter, int]:
    """Return the number of the block that owns each parameter of a part."""
    if isinstance(part, GraphPart):
        return {parameter: part.owners[name] for name, parameter in part.named_parameters()}
    first = part.first_block if isinstance(part, ChainPart) else 0
    return {parameter: first + offset for offset, block in enumerate(part) for parameter in block.parameters()}


def allocated(part: Part, frozen: Mapping[str, torch.Tensor] | None = None) -> Part:
    """Give a part on the meta device memory with undefined content. Returns the same part.

    Buffers that have values, because they are not in the state dict, keep them. `frozen`: the memory of the parameters
    that do not train, by name.
    """
    given: dict[int, nn.Parameter] = {}
    for path, known in part.named_parameters(remove_duplicate=False):
        if frozen and path in frozen:
            given[id(known)] = nn.Parameter(frozen[path], requires_grad=False)
    for module in part.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                if id(parameter) not in given:
                    given[id(parameter)] = nn.Parameter(_memory(parameter), parameter.requires_grad)
                module._parameters[name] = given[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = _memory(buffer)
    if isinstance(part, GraphPart):
        for name, tensor in part.borrowed.items():
            part.borrowed[name] = nn.Parameter(_memory(tensor), tensor.requires_grad)
    return part


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def lend(lender: Part, borrower: Part) -> None:
    """Make weights that two parts of one process share one tensor: the first part owns them."""
    if isinstance(lender, GraphPart) and isinstance(borrower, GraphPart):
        own = {**dict(lender.named_parameters()), **dict(lender.named_buffers())}
        borrower.borrowed.update({name: own[name] for name in borrower.borrowed})


def borrowed_parameters(part: Part) -> list[nn.Parameter]:
    """Return the weights of another part that this part uses and that train."""
    tensors = part.borrowed.values() if isinstance(part, GraphPart) else ()
    return [tensor for tensor in tensors if isinstance(tensor, nn.Parameter) and tensor.requires_grad]


def state_tensors(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return parameters and buffers, detached, in the order of the state dict."""
    return [(name, tensor.detach()) for name, tensor in part.state_dict().items()]


def trained_tensors(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters that train and all buffers, detached: they are copied, sent and averaged."""
    state = part.state_dict(keep_vars=True).items()
    return [(name, tensor.detach()) for name, tensor in state if not _is_frozen(tensor)]


def frozen_tensors(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return the parameters that do not train, detached: they are sent once and shared by all copies."""
    state = part.state_dict(keep_vars=True).items()
    return [(name, tensor.detach()) for name, tensor in state if _is_frozen(tensor)]


def _is_frozen(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


@dataclass(frozen=True)
class Seeds:
    """Seeds torch's generator before each block of a training forward, so randomness is the same wherever it runs."""

    seed: int

    def forward(self, part: Part, ticket: Ticket, values: Values) -> Values:
        """Return the part's output in training mode for the micro-batch that the ticket names."""
        for block in numbered_blocks(part, values):
            values = self.block_forward(ticket, block, values)
        return values

    def block_forward(self, ticket: Ticket, block: NumberedBlock, values: Values) -> Values:
        """Return the output of a block, numbered in the whole model."""
        number, run = block
        seed = block_seed(self.seed, ticket.device, ticket.round, ticket.epoch, ticket.batch, ticket.micro, number)
        torch.default_generator.manual_seed(seed)
        return run(values)


def probe(part: Part, values: Values) -> Values:
    """Return the part's output in evaluation mode. Changes no buffer, no gradient and no generator."""
    was_training = part.training
    part.eval()
    try:
        with torch.no_grad():
            for _, run in numbered_blocks(part, values):
                values = run(values)
            return values
    finally:
        part.train(was_training)
