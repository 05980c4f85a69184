"""Runs a graph on tensors without memory: what each step costs, and where gradients reach."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mpsl.nn.edges import Values
from mpsl.nn.graph.flow import Flow
from mpsl.nn.graph.graph_part import GraphPart, StateSpec
from mpsl.nn.models import SampleSpec

BATCH = 2


@contextmanager
def imagining() -> Iterator[FakeTensorMode]:
    """Tensors made in the block have no memory, and torch's generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.enable_grad():
        yield mode


def imagined_samples(sample: SampleSpec, batch: int) -> torch.Tensor:
    """A batch of samples, within `imagining`."""
    return torch.empty(batch, *sample.shape, dtype=sample.dtype)


def operations(flow: Flow, states: Mapping[str, StateSpec], sample: SampleSpec) -> list[float]:
    """The operations of each step's forward, for a batch of BATCH samples; a multiplication with an addition is two."""
    found: list[float] = []
    with imagining():
        values: dict[fx.Node, Any] = {flow.graph.samples: imagined_samples(sample, BATCH)}
        for node, name in flow.graph.states.items():
            spec = states[name]
            tensor = torch.empty(spec.shape, dtype=spec.dtype)
            values[node] = nn.Parameter(tensor, spec.dtype.is_floating_point) if spec.parameter else tensor
        values |= flow.graph.constants
        values |= flow.graph.regions
        values |= {node: size(BATCH) for node, size in flow.sizes.items()}
        counter = FlopCounterMode(display=False)
        for number, node in enumerate(flow.steps):
            before = counter.get_total_flops()
            if node not in flow.sizes:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda each: values[each])
                with counter:
                    values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            for argument in node.all_input_nodes:
                if flow.last_use.get(argument) == number:
                    values.pop(argument, None)
            found.append(float(counter.get_total_flops() - before))
    return found


def gradients_reach(parts: Sequence[GraphPart], sample: SampleSpec) -> list[list[tuple[bool, bool]]]:
    """For every value after each part, whether it requires a gradient, and whether one comes back for it.

    The parts, on the meta device, are the model's in their order.
    """
    from mpsl.nn.part import allocated, numbered_blocks

    with imagining():
        values: Values = (imagined_samples(sample, BATCH),)
        passes: list[tuple[Values, Values]] = []
        for part in parts:
            inputs = tuple(value.detach().requires_grad_(value.requires_grad) for value in values)
            values = inputs
            for _, block in numbered_blocks(allocated(part), inputs):
                values = block(values)
            passes.append((inputs, values))
        gradients: list[torch.Tensor | None] = [torch.ones_like(value) for value in values]
        found: list[list[tuple[bool, bool]]] = []
        for inputs, outputs in reversed(passes):
            pairs = zip(outputs, gradients, strict=True)
            found.append([(output.requires_grad, gradient is not None) for output, gradient in pairs])
            roots = [
                (output, gradient)
                for output, gradient in zip(outputs, gradients, strict=True)
                if gradient is not None and output.requires_grad
            ]
            if roots:
                torch.autograd.backward([root for root, _ in roots], [gradient for _, gradient in roots])
            gradients = [value.grad for value in inputs]
    return found[::-1]
