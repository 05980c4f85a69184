"""Builds a part of a model: consecutive blocks, under their names in the whole model, without building the rest.

It must never change what a block computes. Exactness rests on a part being the same blocks as in the unsplit model.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from mpsl.batches import block_seed
from mpsl.job import ModelSection
from mpsl.messages import Ticket
from mpsl.nn.models import build


def meta_part(model: ModelSection, blocks: tuple[int, int]) -> nn.Sequential:
    """Return blocks [a, b) of the model on torch's meta device, without any memory."""
    with torch.device("meta"):
        whole = build(model.name, **model.args)
    first, end = blocks
    return nn.Sequential(OrderedDict((str(index), whole[index]) for index in range(first, end)))


def build_part(model: ModelSection, blocks: tuple[int, int]) -> nn.Sequential:
    """Return blocks [a, b) of the model on the CPU with uninitialised weights. The other blocks take no memory."""
    return meta_part(model, blocks).to_empty(device="cpu")


def state_tensors(part: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return parameters and buffers, detached, in the order of the state dict: they are sent and averaged."""
    return [(name, tensor.detach()) for name, tensor in part.state_dict().items()]


@dataclass(frozen=True)
class Seeds:
    """Seeds torch's generator before each block of a training forward, so randomness is the same wherever it runs."""

    seed: int

    def forward(self, part: nn.Sequential, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        """Return the part's output in training mode for the micro-batch that the ticket names."""
        for name, block in part.named_children():
            value = self.block_forward(ticket, int(name), block, value)
        return value

    def block_forward(self, ticket: Ticket, number: int, block: nn.Module, value: torch.Tensor) -> torch.Tensor:
        """Return the output of block `number`, counted in the whole model."""
        seed = block_seed(self.seed, ticket.device, ticket.round, ticket.epoch, ticket.batch, ticket.micro, number)
        torch.default_generator.manual_seed(seed)
        output: torch.Tensor = block(value)
        return output


def probe(part: nn.Sequential, value: torch.Tensor) -> torch.Tensor:
    """Return the part's output in evaluation mode. Changes no buffer, no gradient and no generator."""
    was_training = part.training
    part.eval()
    try:
        with torch.no_grad():
            output: torch.Tensor = part(value)
            return output
    finally:
        part.train(was_training)
