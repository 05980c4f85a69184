"""Which values of an exported graph exist where: what is live at a place, what is computed anew, what must stay whole.

A place is an index into the steps: the graph is cut before that step. A value is *live* there if an earlier step makes
it and a later one needs it. *Free* values depend on no sample and no weight, only on the batch size and on constants
(masks, position tables): they are computed anew where they are needed, and never cross. Sizes are numbers of the form
a·batch + b. Nothing here may run an operator.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from mpsl.errors import UsageError
from mpsl.nn.graph.exported import ExportedGraph

_PROBES = (3, 5, 8)
"""Batch sizes at which a size is evaluated."""

_MAY_RETURN_ARGUMENT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
"""Operators that may return their argument itself although their schema does not say so."""


@dataclass(frozen=True)
class Size:
    """A number of elements: `each` for every sample of the batch, and `fixed`."""

    each: int
    fixed: int

    def __call__(self, batch: int) -> int:
        return self.each * batch + self.fixed


class Flow:
    """The values of `graph`. `what` begins its errors."""

    def __init__(self, graph: ExportedGraph, what: str) -> None:
        self.graph = graph
        self.what = what
        self.steps = _needed(graph)
        self.index = {node: number for number, node in enumerate(self.steps)} | {graph.samples: -1}
        self.sizes = {node: self._size(node.meta["val"]) for node in self.steps if is_size(node)}
        self.roots, self.whole, changed = self._aliases()
        """`whole`: (first, end): no cut at a place first < place <= end, for a value changes in place between them."""
        self.free = self._free(changed)
        self.last_use = {
            node: max((self.index.get(user, -1) for user in node.users), default=-1) for node in self.index
        }
        self.last_use[graph.output] = len(self.steps)

    def live(self, place: int) -> list[fx.Node]:
        """The values that cross a cut at `place`, in the order in which they are made."""
        return [
            node
            for node, number in self.index.items()
            if number < place <= self.last_use[node] and node not in self.free and node not in self.sizes
        ]

    @cached_property
    def uses(self) -> dict[str, list[int]]:
        """For each state of the model, the steps that use it."""
        found: dict[str, list[int]] = {}
        for number, node in enumerate(self.steps):
            for argument in node.all_input_nodes:
                if argument in self.graph.states:
                    found.setdefault(self.graph.states[argument], []).append(number)
        return found

    @cached_property
    def changed_states(self) -> frozenset[str]:
        """The states that the steps themselves change, such as running statistics."""
        found = set()
        for node in self.steps:
            for argument in self._changed_by(node):
                if argument in self.graph.states:
                    found.add(self.graph.states[argument])
        return frozenset(found)

    def shape(self, node: fx.Node, batch: int) -> tuple[int, ...]:
        """The shape of a value at a batch size."""
        return tuple(self._size(size)(batch) for size in node.meta["val"].shape)

    def nbytes(self, node: fx.Node, batch: int) -> int:
        """The bytes of a value at a batch size."""
        count = 1
        for size in self.shape(node, batch):
            count *= size
        return count * int(node.meta["val"].element_size())

    def rows(self, node: fx.Node) -> tuple[int, Size] | None:
        """A dimension of a value that tells the batch size, and its size."""
        if not isinstance(node.meta["val"], torch.Tensor):
            return None
        for number, size in enumerate(node.meta["val"].shape):
            known = self._size(size)
            if known.each and known.fixed == 0:
                return number, known
        return None

    def why_not(self, place: int) -> str:
        """Why the graph cannot be cut at `place`; empty where it can."""
        live = self.live(place)
        if self.graph.samples in live:
            user = self.steps[self.last_use[self.graph.samples]]
            return f"the samples themselves are needed later, in {self.path(user)}, and they never leave a device"
        if any(first < place <= end for first, end in self.whole):
            return "a value that is needed on both sides changes in place"
        if any(not isinstance(node.meta["val"], torch.Tensor) for node in live):
            return "what crosses is not only tensors"
        if not any(self.rows(node) for node in live):
            return "nothing that crosses tells how many samples there are"
        return ""

    def path(self, step: fx.Node) -> str:
        """The innermost module in whose call a step is."""
        return (self.graph.paths.get(step) or ("the model",))[-1]

    def _size(self, size: Any) -> Size:
        if isinstance(size, int):
            return Size(0, size)
        expression = size.node.expr
        symbols = list(expression.free_symbols)
        values = [int(expression.subs(dict.fromkeys(symbols, probe))) for probe in _PROBES]
        each, rest = divmod(values[1] - values[0], _PROBES[1] - _PROBES[0])
        found = Size(each, values[0] - each * _PROBES[0])
        if rest or found(_PROBES[2]) != values[2] or len(symbols) > 1:
            raise UsageError(f"{self.what}: a size is {expression}, and only multiples of the batch size can be cut")
        return found

    def _aliases(self) -> tuple[dict[fx.Node, frozenset[fx.Node]], list[tuple[int, int]], set[fx.Node]]:
        """The values whose memory each value may share, the steps between which it is changed, and what is changed."""
        roots: dict[fx.Node, frozenset[fx.Node]] = {}
        for node in (self.graph.samples, *self.graph.states, *self.graph.constants):
            roots[node] = frozenset([node])
        whole: list[tuple[int, int]] = []
        changed: set[fx.Node] = set()
        for number, node in enumerate(self.steps):
            shared = [argument for argument in self._shared_by(node) if argument in roots]
            roots[node] = frozenset().union(*(roots[argument] for argument in shared)) or frozenset([node])
            for argument in self._changed_by(node):
                for root in roots.get(argument, ()):
                    changed.add(root)
                    if root not in self.graph.states:
                        whole.append((self.index.get(root, -1), number))
        return roots, whole, changed

    def _free(self, changed: set[fx.Node]) -> frozenset[fx.Node]:
        found: set[fx.Node] = {node for node in self.graph.constants if node not in changed}
        for node in self.steps:
            inputs = [each for each in node.all_input_nodes if each not in self.graph.regions]
            if (
                node not in self.sizes
                and all(each in found or each in self.sizes for each in inputs)
                and not self.roots[node] & changed
                and node not in changed
                and not _is_random(self._operators(node))
                and not self._changed_by(node)
            ):
                found.add(node)
        return frozenset(found)

    def _operators(self, node: fx.Node) -> Iterator[Any]:
        """The operators that a step calls, those of a graph within the graph included."""
        yield node.target
        for argument in node.all_input_nodes:
            if argument in self.graph.regions:
                for inner in self.graph.regions[argument].graph.nodes:
                    yield inner.target

    def _shared_by(self, node: fx.Node) -> list[fx.Node]:
        """The arguments whose memory a step's result may share."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return [] if node in self.sizes else list(node.all_input_nodes)
        if schema.name.partition("::")[2] in _MAY_RETURN_ARGUMENT:
            return list(node.all_input_nodes)
        returned = [each.alias_info for each in schema.returns if each.alias_info is not None]
        if not returned:
            return []
        return [
            each
            for argument, value in _arguments(schema, node)
            if argument.alias_info is not None
            for each in _nodes_in(value)
        ]

    def _changed_by(self, node: fx.Node) -> list[fx.Node]:
        """The arguments that a step changes in place."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            inner = [each for each in node.all_input_nodes if each in self.graph.regions]
            changes = any(
                getattr(step.target, "_schema", None) is not None and step.target._schema.is_mutable
                for each in inner
                for step in self.graph.regions[each].graph.nodes
            )
            return [each for each in node.all_input_nodes if each not in inner] if changes else []
        if schema.name == "aten::detach_":
            return []
        found = [
            each
            for argument, value in _arguments(schema, node)
            if argument.alias_info is not None and argument.alias_info.is_write
            for each in _nodes_in(value)
        ]
        if schema.name in ("aten::batch_norm", "aten::instance_norm") and bool(node.args[5]):
            found += [each for each in node.args[3:5] if isinstance(each, fx.Node)]
        return found


def is_size(node: fx.Node) -> bool:
    """Whether a step's result is a number."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt | int) and not isinstance(value, bool)


def _needed(graph: ExportedGraph) -> tuple[fx.Node, ...]:
    """The steps that the output depends on, and those that change something."""
    needed = {graph.output}
    for node in reversed(graph.steps):
        schema = getattr(node.target, "_schema", None)
        if node in needed or (schema is not None and schema.is_mutable and schema.name != "aten::detach_"):
            needed.add(node)
            needed.update(node.all_input_nodes)
    return tuple(node for node in graph.steps if node in needed)


def _is_random(operators: Iterator[Any]) -> bool:
    return any(torch.Tag.nondeterministic_seeded in getattr(each, "tags", ()) for each in operators)


def _arguments(schema: Any, node: fx.Node) -> Iterator[tuple[Any, Any]]:
    for number, argument in enumerate(schema.arguments):
        if number < len(node.args):
            yield argument, node.args[number]
        elif argument.name in node.kwargs:
            yield argument, node.kwargs[argument.name]


def _nodes_in(value: Any) -> Iterator[fx.Node]:
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _nodes_in(each)
