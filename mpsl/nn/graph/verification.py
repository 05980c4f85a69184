"""Compares an exported model with the person's own module on one batch: forward, gradients and buffers, bit for bit.

Code can behave differently while it is exported (attention that chooses another kernel, for instance). Training would
then be exact with respect to something that nobody asked for. So the orchestrator, which has the module, finds out
before the first round. Nothing is changed: buffers are restored, gradients dropped, and torch's generator too.
"""

from collections.abc import Callable

import torch
from torch import nn

from mpsl.errors import UsageError
from mpsl.functions import in_words
from mpsl.nn.graph.graph_model import GraphModel
from mpsl.nn.part import numbered_blocks

SAMPLES = 2
"""The batch that is compared: small, but more than one sample for BatchNorms."""

ADVICE = (
    "its code probably does something else while torch.export looks at it, or computes with values that are neither in "
    "its state dict nor the same everywhere; for models of transformers, try attn_implementation='eager'"
)

Outcome = tuple[torch.Tensor, dict[str, torch.Tensor | None], dict[str, torch.Tensor]]


def refuse_inexact(model: GraphModel, module: nn.Module) -> None:
    """Raise UsageError if the blocks of `model` compute other bits than `module`, whose weights they use here."""
    part = model.part(0, len(model))
    named = dict(module.state_dict(keep_vars=True))
    for name in part.state_dict():
        *path, last = name.split(".")
        owner: nn.Module = part
        for each in path:
            owner = owner._modules[each]  # type: ignore[assignment]
        tensor = named[name]
        (owner._parameters if isinstance(tensor, nn.Parameter) else owner._buffers)[last] = tensor
    chance = torch.Generator().manual_seed(0)
    shape = (SAMPLES, *model.sample.shape)
    samples = torch.rand(shape, generator=chance) if model.sample.dtype.is_floating_point else torch.ones(shape)
    samples = samples.to(model.sample.dtype)

    def blocks() -> torch.Tensor:
        values: tuple[torch.Tensor, ...] = (samples,)
        for _, run in numbered_blocks(part.train(), values):
            values = run(values)
        return values[0]

    def whole() -> torch.Tensor:
        output = module.train()(samples)
        found: torch.Tensor = output["logits"] if isinstance(output, dict) else getattr(output, "logits", output)
        return found

    try:
        theirs = _outcome(whole, module)
    except Exception as error:  # whatever the person's code raises
        raise UsageError(f"{model.what}: its forward raised {in_words(error)} for a batch of {SAMPLES}") from None
    ours = _outcome(blocks, module)
    what = _difference(ours, theirs)
    if what:
        raise UsageError(f"{model.what}: cut into blocks, {what}, so training would not be exact: {ADVICE}")


def _outcome(forward: Callable[[], torch.Tensor], module: nn.Module) -> Outcome:
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        output = forward()
        weights = torch.linspace(0.5, 1.0, output.numel()).reshape(output.shape)
        if output.requires_grad:
            (output * weights).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    module.zero_grad(set_to_none=True)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
    return output.detach(), gradients, buffers


def _difference(ours: Outcome, theirs: Outcome) -> str:
    """What differs first, in words; empty where nothing does."""
    if not _same(ours[0], theirs[0]):
        return "its output differs from that of the module itself"
    for mine, other, what in ((ours[1], theirs[1], "gradient"), (ours[2], theirs[2], "buffer")):
        for name, tensor in other.items():
            if not _same(mine[name], tensor):
                return f"the {what} of {name} differs from that of the module itself"
    return ""


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(one, other) or (
        one.shape == other.shape
        and torch.equal(one.isnan(), other.isnan())
        and torch.equal(one.nan_to_num(), other.nan_to_num())
    )
