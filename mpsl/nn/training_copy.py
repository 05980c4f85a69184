"""One device's copy of a part in training. Forward keeps what backward needs; a batch's last backward steps.

A copy holds at most one batch: what its micro-batches need between forward and backward. A parameter is stepped as soon
as its gradient is complete, and the gradient is freed at once. By then autograd has computed everything that depends on
the parameter, so all gradients are those of the weights before the step. With `recompute`, only the input is kept.
Backward then runs the forward again from the same weights, generator state and buffers, so the result has the same
bits.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from mpsl.job import OptimizerSection
from mpsl.learning_rate import LearningRates
from mpsl.messages import Ticket
from mpsl.nn.edges import Values
from mpsl.nn.optimizers import optimizers
from mpsl.nn.part import Part, Seeds, borrowed_parameters, edges_of

Position = tuple[int, int, int]


@dataclass
class _Kept:
    """What is kept of one micro-batch: what went in, and what came out with its graph.

    When recomputing, `outputs` is None and `buffers` are those that its forward started with.
    """

    values: Values
    outputs: Values | None
    buffers: list[torch.Tensor]
    nbytes: int


class TrainingCopy:
    """A copy that owns `part`. `input_gradient`: whether an earlier part needs the gradients of the input.

    `lender`: the copy of the part whose weights this part uses too. It gets their gradients, and steps them. `rates`:
    the learning rate of each step; None: the optimizer's own.
    """

    def __init__(
        self,
        part: Part,
        optimizer: OptimizerSection,
        seed: int,
        input_gradient: bool,
        recompute: bool = False,
        lender: "TrainingCopy | None" = None,
        rates: LearningRates | None = None,
    ) -> None:
        self.part = part.train()
        # A device reuses its part: a batch that was aborted between micro-batches must leave no gradient behind.
        self.part.zero_grad(set_to_none=True)
        self._optimizer = optimizers.get(optimizer.name)(optimizer)
        self._seeds = Seeds(seed)
        self._inputs, self._outputs = edges_of(part)
        self._input_gradient = input_gradient
        self._recompute = recompute
        self._borrowed = borrowed_parameters(part)
        self._lender = lender
        self._rates = rates
        self._lent: dict[Position, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        """Gradients of this part's weights that came from the part that borrows them."""
        self._kept: dict[Position, _Kept] = {}
        self._saved: dict[tuple[torch.Size, ...], int] = {}
        self.peak_gradient_bytes = 0

    def forward(self, ticket: Ticket, values: Values) -> Values:
        """Return the part's output and keep what backward needs."""
        # Recomputed or not, the pass builds its graph: kernels may depend on whether there is one.
        before = [buffer.clone() for buffer in self.part.buffers()] if self._recompute else []
        outputs = self._run(ticket, values)
        nbytes = sum(value.nbytes for value in values)
        nbytes += 0 if self._recompute else self._saved_bytes(values, outputs)
        self._kept[_position(ticket)] = _Kept(values, None if self._recompute else outputs, before, nbytes)
        return tuple(output.detach() for output in outputs)

    def backward(self, ticket: Ticket, gradients: Values) -> Values:
        """Add up the part's gradients and return those of the input. A batch's last micro-batch steps.

        `gradients` has one for every output that gets one (`EdgeValue.gradient`), in their order.
        """
        position = _position(ticket)
        kept = self._kept.pop(position)
        outputs = kept.outputs if kept.outputs is not None else self._recompute_forward(ticket, kept)
        wanted = (output for output, value in zip(outputs, self._outputs, strict=True) if value.gradient)
        roots = [(output, each) for output, each in zip(wanted, gradients, strict=True) if output.requires_grad]
        # Later uses come first: autograd adds up a value's gradients in the reverse order of its uses.
        roots += self._lent.pop(position, [])
        if ticket.last and self._rates is not None:
            self._optimizer.lr = self._rates.at(ticket)
        hooks = self._step_when_complete() if ticket.last else []
        before = [parameter.grad for parameter in self._borrowed]
        for parameter in self._borrowed:
            parameter.grad = None
        try:
            if roots:
                torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
        finally:
            for hook in hooks:
                hook.remove()
        if self._borrowed:
            self._give_back(position, before)
        if not ticket.last:
            self.peak_gradient_bytes = max(self.peak_gradient_bytes, self.gradient_bytes())
        else:
            # Parameters that an earlier micro-batch reached, but not this one.
            for parameter in self._with_gradient():
                self._step(parameter)
        return self._input_gradients(kept.values)

    def _give_back(self, position: Position, before: Sequence[torch.Tensor | None]) -> None:
        """Hand the gradients of borrowed weights to their owner, whose own pass adds its uses of them."""
        lent: list[tuple[torch.Tensor, torch.Tensor]] = [
            (parameter, parameter.grad) for parameter in self._borrowed if parameter.grad is not None
        ]
        for parameter, gradient in zip(self._borrowed, before, strict=True):
            parameter.grad = gradient
        if self._lender is not None:
            self._lender._lent[position] = lent

    def _input_gradients(self, values: Values) -> Values:
        if not self._input_gradient:
            return ()
        found = []
        for value, described in zip(values, self._inputs, strict=True):
            if described.gradient:
                # Only a part without any weights, or whose weights do not train, passes no gradient on.
                found.append(torch.zeros_like(value) if value.grad is None else value.grad)
        return tuple(found)

    def activation_bytes(self) -> int:
        """Bytes of the inputs and saved activations held now."""
        return sum(kept.nbytes for kept in self._kept.values())

    def gradient_bytes(self) -> int:
        """Bytes of the parameters' gradients held now."""
        return sum(parameter.grad.nbytes for parameter in self._with_gradient() if parameter.grad is not None)

    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state held now."""
        return self._optimizer.held_bytes()

    def _run(self, ticket: Ticket, values: Values) -> Values:
        if self._input_gradient:
            for value, described in zip(values, self._inputs, strict=True):
                value.requires_grad_(described.differentiable)
        return self._seeds.forward(self.part, ticket, values)

    def _saved_bytes(self, values: Values, outputs: Values) -> int:
        """Bytes that the graph keeps besides its input, found once for each shape."""
        shapes = tuple(value.shape for value in values)
        if shapes not in self._saved:
            self._saved[shapes] = saved_bytes(outputs, [*values, *self.part.parameters()])
        return self._saved[shapes]

    def _recompute_forward(self, ticket: Ticket, kept: _Kept) -> Values:
        """Run the forward again with the buffers of its first run, then restore the present ones."""
        buffers = list(self.part.buffers())
        now = [buffer.clone() for buffer in buffers]
        _restore(buffers, kept.buffers)
        outputs = self._run(ticket, kept.values)
        _restore(buffers, now)
        return outputs

    def _step_when_complete(self) -> list[RemovableHandle]:
        """Make backward step each parameter once its gradient is complete, until the hooks are removed."""

        def complete(parameter: torch.Tensor) -> None:
            assert isinstance(parameter, nn.Parameter)
            assert parameter.grad is not None
            self.peak_gradient_bytes = max(self.peak_gradient_bytes, parameter.grad.nbytes)
            self._step(parameter)

        register = nn.Parameter.register_post_accumulate_grad_hook
        trained = (parameter for parameter in self.part.parameters() if parameter.requires_grad)
        return [register(parameter, complete) for parameter in trained]  # type: ignore[no-untyped-call]

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


def saved_bytes(outputs: Iterable[torch.Tensor], without: Iterable[torch.Tensor]) -> int:
    """Return the bytes of `outputs` and of all tensors that their graph has saved for backward, without `without`.

    Each storage counts once. Nothing is kept alive.
    """
    known = {_storage(tensor) for tensor in without}
    total = 0
    outputs = tuple(outputs)
    for tensor in (*outputs, *_saved_tensors([output.grad_fn for output in outputs])):
        if _storage(tensor) not in known:
            known.add(_storage(tensor))
            total += tensor.untyped_storage().nbytes()
    return total


def _saved_tensors(nodes: Iterable[Any]) -> Iterator[torch.Tensor]:
    seen, waiting = {None}, list(nodes)
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
