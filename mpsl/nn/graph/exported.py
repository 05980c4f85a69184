"""Exports a model: what it computes in training or in evaluation, as one graph of torch's operators.

The batch is the only size that stays open. What cannot be exported is refused with the place in the person's source.
Nothing here may change what an operator computes: exactness rests on the graph calling the very same ones in the order.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import InputKind
from torch.utils import _pytree

from mpsl.errors import UsageError
from mpsl.functions import place_of

EXAMPLE_BATCH = 3
"""Samples in the batch that the model is traced with; 0 and 1 would be taken for constants."""

IGNORED = (
    "_assert_tensor_metadata",
    "_assert_scalar",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
    "_assert_async",
)
"""Operators that only check."""


@dataclass(frozen=True)
class ExportedGraph:
    """The graph of one mode. `steps` are its calls in the order in which the model makes them."""

    samples: fx.Node
    """The model's input."""
    steps: tuple[fx.Node, ...]
    output: fx.Node
    states: Mapping[fx.Node, str]
    """Parameters and buffers of the state dict: the name of each, one for those that are shared."""
    constants: Mapping[fx.Node, torch.Tensor]
    """Tensors that are part of the code: buffers that are not in the state dict, and others."""
    regions: Mapping[fx.Node, fx.GraphModule]
    """Graphs within the graph, such as a `torch.no_grad()` block."""
    paths: Mapping[fx.Node, tuple[str, ...]]
    """The modules in whose call each step is, outermost first; a second call of the same module is not among them."""


def exported(model: nn.Module, example: torch.Tensor, what: str, training: bool) -> ExportedGraph:
    """Export `model` for samples like `example`, a batch. Raises UsageError that begins with `what`."""
    model.train(training)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.set_grad_enabled(training):
            # What matters of what torch says becomes an error.
            warnings.simplefilter("ignore")
            program = export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception as error:  # whatever torch or the person's code raises
        raise UsageError(_refusal(what, error)) from None
    return _read(program, model, what)


def _read(program: ExportedProgram, model: nn.Module, what: str) -> ExportedGraph:
    owners = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    persistent = {name: owners[id(tensor)] for name, tensor in model.state_dict(keep_vars=True).items()}
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    states: dict[fx.Node, str] = {}
    constants: dict[fx.Node, torch.Tensor] = {}
    samples = None
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            samples = node
        elif spec.target in persistent and spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            states[node] = persistent[spec.target]
        else:
            value = program.constants.get(str(spec.target))
            if not isinstance(value, torch.Tensor):
                raise UsageError(f"{what}: {spec.target} is neither a parameter, a buffer nor a tensor")
            constants[node] = value.detach()
    assert samples is not None
    steps = tuple(node for node in program.graph.nodes if node.op == "call_function" and not _only_checks(node))
    regions = {
        node: getattr(program.graph_module, str(node.target)) for node in program.graph.nodes if node.op == "get_attr"
    }
    return ExportedGraph(
        samples,
        steps,
        _output(program, what),
        states,
        constants,
        regions,
        {node: _paths(node) for node in steps},
    )


def _output(program: ExportedProgram, what: str) -> fx.Node:
    """The node of the one tensor that counts: the model's output, or the `logits` of what it returns."""
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    nodes = list(output.args[0])
    returned = _pytree.tree_unflatten(list(range(len(nodes))), program.call_spec.out_spec)
    number = getattr(returned, "logits", returned)
    if isinstance(returned, Mapping) and not hasattr(returned, "logits"):
        number = returned.get("logits")
    if not isinstance(number, int) or not isinstance(nodes[number], fx.Node):
        raise UsageError(
            f"{what}: it returns {type(returned).__name__}; return one tensor (or something that has `logits`): "
            "wrap the model in a module whose forward picks it"
        )
    found: fx.Node = nodes[number]
    return found


def _only_checks(node: fx.Node) -> bool:
    name = getattr(node.target, "_opname", getattr(node.target, "__name__", ""))
    return not node.users and name in IGNORED


def _paths(node: fx.Node) -> tuple[str, ...]:
    stack: Mapping[str, Any] = node.meta.get("nn_module_stack") or {}
    found = []
    for key, (path, _) in stack.items():
        if "@" in key:
            break
        if path and path != key:
            found.append(path)
    return tuple(found)


def _refusal(what: str, error: Exception) -> str:
    kind, text = type(error).__name__, str(error)
    place = place_of(error)
    where = f" at {place}" if place else ""
    if "DataDependent" in kind or "data-dependent" in text.lower() or "item()" in text:
        why = (
            "what it computes depends on values of tensors (an `if` or a loop over them, or .item()), "
            "so no graph can be cut; use torch.where, masks, or numbers that are known without the data"
        )
    elif "ConstraintViolation" in kind or "specializ" in text.lower():
        why = (
            "its code fixes the number of samples in a batch; write x.shape[0] or -1 there instead of a number, "
            "and do not loop over samples"
        )
    else:
        first = next((line.strip() for line in text.splitlines() if line.strip()), "")
        why = f"{kind}: {first:.300}"
    return f"{what} cannot be exported{where}: {why}"
