"""Builds a person's model without memory for its weights: enough to export it, and to know the states of its parts.

Its parameters are never filled. Buffers that are not in the state dict keep their values, because nobody sends them.
torch's generator is restored afterwards. Nothing here may be used to train: the values of the parameters are undefined.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mpsl.errors import UsageError


def outline(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes, on the CPU, with parameters whose memory nobody has touched.

    A function that needs real parameters while it builds gets them. Weights that are shared stay shared.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with _parameters_on_meta():
                model = make()
        except UsageError as error:
            # Without weights something went wrong that may not go wrong with them.
            try:
                model = make()
            except UsageError:
                raise error from None
        else:
            if _lost(model):
                model = make()
    _untouched(model)
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Give no memory to a parameter that is registered while the block lasts."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        # A parameter that is already there is one that is shared: it must stay the same object.
        if parameter is not None and parameter.device.type != "meta" and type(parameter) is nn.Parameter:
            module._parameters[name] = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _lost(model: nn.Module) -> bool:
    """Whether a buffer's value is needed and was lost, because it was computed from a parameter."""
    kept = model.state_dict().keys()
    return any(buffer.is_meta and name not in kept for name, buffer in model.named_buffers())


def _untouched(model: nn.Module) -> None:
    """Replace parameters, and buffers that are sent, by memory that the system has not given yet."""
    replaced: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in replaced:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    replaced[id(parameter)] = parameter, nn.Parameter(empty, parameter.requires_grad)
                module._parameters[name] = replaced[id(parameter)][1]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
