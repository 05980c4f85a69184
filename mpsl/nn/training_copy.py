"""One device's copy of a part in training. Forward keeps what backward needs; a batch's last backward steps.

A copy holds at most one batch: what its micro-batches need between forward and backward. A parameter is stepped as soon
as its gradient is complete, and the gradient is freed at once. By then autograd has computed everything that depends on
the parameter, so all gradients are those of the weights before the step. With `recompute`, only the input is kept.
Backward then runs the forward again from the same weights, generator state and buffers, so the result has the same
bits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mpsl.job import OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.optimizers import optimizers
from mpsl.nn.part import Seeds

Position = tuple[int, int, int]


@dataclass
class _Kept:
    """What is kept of one micro-batch: its input, and the output with its graph.

    When recomputing, `output` is None and `buffers` are those that its forward started with.
    """

    value: torch.Tensor
    output: torch.Tensor | None
    buffers: list[torch.Tensor]
    nbytes: int


class TrainingCopy:
    """A copy that owns `part`. `input_gradient`: whether an earlier part needs the gradient of the input."""

    def __init__(
        self,
        part: nn.Sequential,
        optimizer: OptimizerSection,
        seed: int,
        input_gradient: bool,
        recompute: bool = False,
    ) -> None:
        self.part = part.train()
        # A device reuses its part: a batch that was aborted between micro-batches must leave no gradient behind.
        self.part.zero_grad(set_to_none=True)
        self._optimizer = optimizers.get(optimizer.name)(optimizer)
        self._seeds = Seeds(seed)
        self._input_gradient = input_gradient
        self._recompute = recompute
        self._kept: dict[Position, _Kept] = {}
        self._saved: dict[torch.Size, int] = {}
        self.peak_gradient_bytes = 0

    def forward(self, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        """Return the part's output and keep what backward needs."""
        # Recomputed or not, the pass builds its graph: kernels may depend on whether there is one.
        before = [buffer.clone() for buffer in self.part.buffers()] if self._recompute else []
        output = self._run(ticket, value)
        nbytes = value.nbytes + (0 if self._recompute else self._saved_bytes(value, output))
        self._kept[_position(ticket)] = _Kept(value, None if self._recompute else output, before, nbytes)
        return output.detach()

    def backward(self, ticket: Ticket, gradient: torch.Tensor) -> torch.Tensor | None:
        """Add up the part's gradients and return that of the input. A batch's last micro-batch steps."""
        kept = self._kept.pop(_position(ticket))
        output = kept.output if kept.output is not None else self._recompute_forward(ticket, kept)
        hooks = self._step_when_complete() if ticket.last else []
        try:
            if output.requires_grad:
                output.backward(gradient)  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
        if not ticket.last:
            self.peak_gradient_bytes = max(self.peak_gradient_bytes, self.gradient_bytes())
        else:
            # Parameters that an earlier micro-batch reached, but not this one.
            for parameter in self._with_gradient():
                self._step(parameter)
        return kept.value.grad

    def activation_bytes(self) -> int:
        """Bytes of the inputs and saved activations held now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def gradient_bytes(self) -> int:
        """Bytes of the parameters' gradients held now."""
        return sum(parameter.grad.nbytes for parameter in self._with_gradient() if parameter.grad is not None)

    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state held now."""
        return self._optimizer.held_bytes()

    def _run(self, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        if self._input_gradient:
            value.requires_grad_()
        return self._seeds.forward(self.part, ticket, value)

    def _saved_bytes(self, value: torch.Tensor, output: torch.Tensor) -> int:
        """Bytes that the graph keeps besides its input, found once for each shape."""
        if value.shape not in self._saved:
            self._saved[value.shape] = saved_bytes(output, [value, *self.part.parameters()])
        return self._saved[value.shape]

    def _recompute_forward(self, ticket: Ticket, kept: _Kept) -> torch.Tensor:
        """Run the forward again with the buffers of its first run, then restore the present ones."""
        buffers = list(self.part.buffers())
        now = [buffer.clone() for buffer in buffers]
        _restore(buffers, kept.buffers)
        output = self._run(ticket, kept.value)
        _restore(buffers, now)
        return output

    def _step_when_complete(self) -> list[RemovableHandle]:
        """Make backward step each parameter once its gradient is complete, until the hooks are removed."""

        def complete(parameter: torch.Tensor) -> None:
            assert isinstance(parameter, nn.Parameter)
            assert parameter.grad is not None
            self.peak_gradient_bytes = max(self.peak_gradient_bytes, parameter.grad.nbytes)
            self._step(parameter)

        register = nn.Parameter.register_post_accumulate_grad_hook
        return [register(parameter, complete) for parameter in self.part.parameters()]  # type: ignore[no-untyped-call]

    def _with_gradient(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.part.parameters() if parameter.grad is not None]

    def _step(self, parameter: nn.Parameter) -> None:
        self._optimizer.step(parameter)
        parameter.grad = None


@torch.no_grad()
def _restore(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        # `.data` bypasses the version counter; backward of a BatchNorm in training ignores its running statistics.
        buffer.data.copy_(value)


def saved_bytes(output: torch.Tensor, without: Iterable[torch.Tensor]) -> int:
    """Return the bytes of `output` and of all tensors that its graph has saved for backward, except those of `without`.

    Each storage counts once. Nothing is kept alive.
    """
    known = {_storage(tensor) for tensor in without}
    total = 0
    for tensor in (output, *_saved_tensors(output.grad_fn)):
        if _storage(tensor) not in known:
            known.add(_storage(tensor))
            total += tensor.untyped_storage().nbytes()
    return total


def _saved_tensors(node: Any) -> Iterator[torch.Tensor]:
    seen, waiting = {None}, [node]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                for tensor in value if isinstance(value, tuple | list) else (value,):
                    if isinstance(tensor, torch.Tensor):
                        yield tensor


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _position(ticket: Ticket) -> Position:
    return ticket.epoch, ticket.batch, ticket.micro
