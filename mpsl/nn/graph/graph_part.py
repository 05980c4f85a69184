"""A part of an exported model: its states under their names in the whole model, and the code of its blocks.

Copies share the code and own their states. In evaluation the same blocks run the code of the evaluation graph. States
that belong to another part of the same process are borrowed: the same tensors, not among this part's parameters.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from mpsl.nn.edges import Edge, NumberedBlock, Values

if TYPE_CHECKING:
    # Exporting needs modules that take seconds to import; a process without such a model never pays for them.
    from mpsl.nn.graph.code import BlockCode
    from mpsl.nn.graph.flow import Size


@dataclass(frozen=True)
class StateSpec:
    """A parameter or buffer of the model."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parameter: bool
    trains: bool

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta").nbytes


@dataclass(frozen=True)
class Mode:
    """What a part runs in one mode: the code of each block, and where the values that come in tell the batch size."""

    codes: "tuple[BlockCode, ...]"
    rows: "tuple[int, int, Size]"
    """The number of a value, a dimension of it, and that dimension's size."""

    def __deepcopy__(self, memo: object) -> "Mode":
        return self


class GraphPart(nn.Module):
    """Blocks `first` and on, with `states` (and the block of each) on the meta device until they are given memory."""

    def __init__(
        self,
        first: int,
        modes: tuple[Mode, Mode],
        edges: tuple[Edge, Edge],
        probe_edges: tuple[Edge, Edge],
        states: Mapping[StateSpec, int],
        borrowed: Iterable[StateSpec] = (),
    ) -> None:
        super().__init__()
        self.first_block = first
        self.edges = edges
        """What goes in and what comes out, in training."""
        self.probe_edges = probe_edges
        """The same in evaluation."""
        self._modes = modes
        self.owners = {spec.name: block for spec, block in states.items()}
        """The block that owns each state."""
        self.borrowed: dict[str, torch.Tensor] = {spec.name: _empty(spec) for spec in borrowed}
        """States of another part, by name; whoever builds both parts lends them."""
        for spec in states:
            *path, last = spec.name.split(".")
            module: nn.Module = self
            for each in path:
                # Names that the person chose may be those of attributes, which add_module would refuse.
                module = module._modules.setdefault(each, nn.Module())  # type: ignore[assignment]
            if spec.parameter:
                module._parameters[last] = _empty(spec)  # type: ignore[assignment]
            else:
                module._buffers[last] = _empty(spec)

    def numbered(self, values: Values) -> Iterator[NumberedBlock]:
        """Yield the number of each block in the whole model, and the block as a function of values."""
        mode = self._modes[0] if self.training else self._modes[1]
        number, dimension, size = mode.rows
        batch, rest = divmod(values[number].shape[dimension] - size.fixed, size.each)
        if rest:
            raise ValueError(f"{values[number].shape[dimension]} rows are no multiple of {size.each}")
        for offset, code in enumerate(mode.codes):
            yield self.first_block + offset, partial(code.function, self, batch)

    def forward(self, *values: torch.Tensor) -> Values:
        """Run all blocks in the part's present mode."""
        for _, block in self.numbered(values):
            values = block(values)
        return values


def _empty(spec: StateSpec) -> torch.Tensor:
    tensor = torch.empty(spec.shape, dtype=spec.dtype, device="meta")
    return nn.Parameter(tensor, spec.trains) if spec.parameter else tensor
