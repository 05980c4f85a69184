"""One device's copy of a part in training: forward keeps, backward uses, and steps on the way of a batch's last one.

Holds at most one batch: what its micro-batches need between forward and backward. A parameter is stepped as soon as its
gradient is whole, and the gradient's memory goes at once: by then autograd has made everything that it makes of the
parameter, so all gradients are those of the weights before the step. With `recompute` only the input is kept and
backward runs the forward again, from the same weights, generator and buffers: the same bits.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mpsl.job import OptimizerSection
from mpsl.messages import Ticket
from mpsl.nn.optimizers import optimizers
from mpsl.nn.part import Seeds
from mpsl.nn.stored import stored_bytes

Position = tuple[int, int, int]


@dataclass
class _Kept:
    """Of one micro-batch: its input; the output with its graph, or None and the buffers as its forward found them."""

    value: torch.Tensor
    output: torch.Tensor | None
    buffers: list[torch.Tensor]
    nbytes: int


class Copy:
    """`part` belongs to this copy alone; `input_gradient`: whether someone before this part wants one."""

    def __init__(
        self,
        part: nn.Sequential,
        optimizer: OptimizerSection,
        seed: int,
        input_gradient: bool,
        recompute: bool = False,
    ) -> None:
        self.part = part.train()
        # A device's part is used again: a batch that was broken off between micro-batches leaves nothing behind.
        self.part.zero_grad(set_to_none=True)
        self._optimizer = optimizers.get(optimizer.name)(optimizer)
        self._seeds = Seeds(seed)
        self._input_gradient = input_gradient
        self._recompute = recompute
        self._kept: dict[Position, _Kept] = {}
        self._stored: dict[torch.Size, int] = {}
        self.most_gradient_bytes = 0

    def forward(self, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        """The part's output; what backward needs is kept."""
        # Recomputed or not, the pass is the same one, with its graph: kernels may depend on whether there is one.
        before = [buffer.clone() for buffer in self.part.buffers()] if self._recompute else []
        output = self._run(ticket, value)
        nbytes = value.nbytes + (0 if self._recompute else self._stored_bytes(value, output))
        self._kept[_position(ticket)] = _Kept(value, None if self._recompute else output, before, nbytes)
        return output.detach()

    def backward(self, ticket: Ticket, gradient: torch.Tensor) -> torch.Tensor | None:
        """The gradient of the input, after those of the part have been added up; a batch's last micro-batch steps."""
        kept = self._kept.pop(_position(ticket))
        output = kept.output if kept.output is not None else self._again(ticket, kept)
        hooks = self._step_when_whole() if ticket.last else []
        try:
            if output.requires_grad:
                output.backward(gradient)  # type: ignore[no-untyped-call]
        finally:
            for hook in hooks:
                hook.remove()
        if not ticket.last:
            self.most_gradient_bytes = max(self.most_gradient_bytes, self.gradient_bytes())
        else:
            # Parameters that this micro-batch did not reach, but an earlier one did.
            for parameter in self._with_gradient():
                self._step(parameter)
        return kept.value.grad

    def activation_bytes(self) -> int:
        """Bytes of inputs and stored activations, as of now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def gradient_bytes(self) -> int:
        """Bytes of the parameters' gradients, as of now."""
        return sum(parameter.grad.nbytes for parameter in self._with_gradient() if parameter.grad is not None)

    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state, as of now."""
        return self._optimizer.held_bytes()

    def _run(self, ticket: Ticket, value: torch.Tensor) -> torch.Tensor:
        if self._input_gradient:
            value.requires_grad_()
        return self._seeds.forward(self.part, ticket, value)

    def _stored_bytes(self, value: torch.Tensor, output: torch.Tensor) -> int:
        """What the graph keeps beside its input, looked up once for each shape."""
        if value.shape not in self._stored:
            self._stored[value.shape] = stored_bytes(output, [value, *self.part.parameters()])
        return self._stored[value.shape]

    def _again(self, ticket: Ticket, kept: _Kept) -> torch.Tensor:
        """The forward once more, with the buffers of then; those of now are put back."""
        buffers = list(self.part.buffers())
        now = [buffer.clone() for buffer in buffers]
        _put(buffers, kept.buffers)
        output = self._run(ticket, kept.value)
        _put(buffers, now)
        return output

    def _step_when_whole(self) -> list[RemovableHandle]:
        """Let the coming backward step each parameter once its gradient is added up, until the hooks are removed."""

        def whole(parameter: torch.Tensor) -> None:
            assert isinstance(parameter, nn.Parameter)
            assert parameter.grad is not None
            self.most_gradient_bytes = max(self.most_gradient_bytes, parameter.grad.nbytes)
            self._step(parameter)

        register = nn.Parameter.register_post_accumulate_grad_hook
        return [register(parameter, whole) for parameter in self.part.parameters()]  # type: ignore[no-untyped-call]

    def _with_gradient(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.part.parameters() if parameter.grad is not None]

    def _step(self, parameter: nn.Parameter) -> None:
        self._optimizer.step(parameter)
        parameter.grad = None


@torch.no_grad()
def _put(buffers: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for buffer, value in zip(buffers, values, strict=True):
        # Past the version counter: backward of a BatchNorm in training does not look at its running statistics.
        buffer.data.copy_(value)


def _position(ticket: Ticket) -> Position:
    return ticket.epoch, ticket.batch, ticket.micro
