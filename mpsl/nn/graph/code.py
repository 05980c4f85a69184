"""Writes the steps of a graph between two places as a function, and has torch.fx compile it.

The function takes the part (it holds the states), the batch size and the values that come in; it returns the values
that go out. A value is forgotten after its last use, as a local variable of the person's own code is. Free values are
computed where they are first needed, and handed on within a part. The functions hold no state: all copies share them.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import fx, nn

from mpsl.nn.graph.flow import Flow

Values = tuple[torch.Tensor, ...]
BlockFunction = Callable[[nn.Module, int, Values], Values]


@dataclass(frozen=True)
class StateKinds:
    """Where a part keeps its states: which ones are parameters, and which ones belong to another part."""

    parameters: frozenset[str]
    borrowed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class BlockCode:
    """One compiled block. `text` says what it computes: it is the same on every machine that computes the same."""

    function: BlockFunction
    text: str

    def __deepcopy__(self, memo: object) -> "BlockCode":
        return self


def block_codes(flow: Flow, places: Sequence[int], kinds: StateKinds) -> tuple[BlockCode, ...]:
    """Return the code between every two consecutive places.

    The first takes the live values of its place, the last returns those of its own; between them free values that are
    needed later are handed on too.
    """
    codes = []
    taken = flow.live(places[0])
    for first, end in pairwise(places):
        writer = _Writer(flow, taken, kinds)
        for number in range(first, end):
            writer.step(flow.steps[number])
        given = flow.live(end)
        if end != places[-1]:
            given = given + [each for each in writer.free() if _needed_in(flow, each, end, places[-1])]
        codes.append(writer.compiled(given))
        taken = given
    return tuple(codes)


def _needed_in(flow: Flow, node: fx.Node, first: int, end: int) -> bool:
    """Whether a step in [first, end) needs a free value, or needs one that is made from it."""
    waiting, seen = [node], {node}
    while waiting:
        for user in waiting.pop().users:
            if first <= flow.index.get(user, -1) < end and user not in flow.free:
                return True
            if user in flow.free and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


class _Writer:
    """Writes one block as a graph of its own. It takes the batch size, the values that come in, and its states."""

    def __init__(self, flow: Flow, taken: Sequence[fx.Node], kinds: StateKinds) -> None:
        self._flow = flow
        self._kinds = kinds
        self._graph = fx.Graph()
        self._batch = self._graph.placeholder("batch")
        self._made = {node: self._graph.placeholder(f"value_{number}") for number, node in enumerate(taken)}
        self._last_argument = next(reversed(self._made.values()), self._batch)
        self._states: dict[str, fx.Node] = {}
        self._attributes: dict[str, Any] = {}
        """Constants and graphs within the graph."""

    def step(self, node: fx.Node) -> None:
        """Write a step, unless it is free or a number: those are written where they are needed."""
        if node not in self._flow.free and node not in self._flow.sizes:
            self._write(node)

    def free(self) -> list[fx.Node]:
        """The free values that have been made or taken, except constants."""
        return [node for node in self._made if node in self._flow.free and node not in self._flow.graph.constants]

    def compiled(self, given: Iterable[fx.Node]) -> BlockCode:
        """Return the code that returns `given`."""
        self._graph.output(tuple(self._value(node) for node in given))
        forward = fx.GraphModule(self._attributes, self._graph).forward
        getters = [_getter(name, self._kinds) for name in self._states]

        def block(part: Any, batch: int, values: Values) -> Values:
            made: Values = forward(batch, *values, *[getter(part) for getter in getters])
            return made

        described = [f"{name} = {_described(value)}" for name, value in self._attributes.items()]
        return BlockCode(block, "\n".join([*self._states, *described, self._graph.python_code("self").src]))

    def _write(self, node: fx.Node) -> None:
        arguments = fx.map_arg(node.args, self._value)
        keywords = fx.map_arg(dict(node.kwargs), self._value)
        self._made[node] = self._graph.call_function(node.target, arguments, keywords)  # type: ignore[arg-type]

    def _value(self, node: fx.Node) -> fx.Node:
        """A value in this block's graph; what is free is written now."""
        flow = self._flow
        if node in flow.sizes:
            size = flow.sizes[node]
            return self._graph.call_function(_size, (self._batch, size.each, size.fixed))
        if node in flow.graph.states:
            return self._state(flow.graph.states[node])
        if node not in self._made:
            if node in flow.graph.constants:
                self._made[node] = self._attribute(flow.graph.constants[node])
            elif node in flow.graph.regions:
                self._made[node] = self._attribute(flow.graph.regions[node])
            else:
                assert node in flow.free, f"{node} is not live"
                self._write(node)
        return self._made[node]

    def _state(self, name: str) -> fx.Node:
        if name not in self._states:
            with self._graph.inserting_after(self._last_argument):
                self._states[name] = self._last_argument = self._graph.placeholder(f"state_{len(self._states)}")
        return self._states[name]

    def _attribute(self, value: Any) -> fx.Node:
        name = f"constant_{len(self._attributes)}"
        self._attributes[name] = value
        return self._graph.get_attr(name)


def _size(batch: int, each: int, fixed: int) -> int:
    return each * batch + fixed


def _getter(name: str, kinds: StateKinds) -> Callable[[Any], torch.Tensor]:
    """Finds a state in a part, without the cost of a module's attributes."""
    *path, last = name.split(".")
    kind = "_parameters" if name in kinds.parameters else "_buffers"

    def get(part: Any) -> torch.Tensor:
        for each in path:
            part = part._modules[each]
        found: torch.Tensor = getattr(part, kind)[last]
        return found

    def get_borrowed(part: Any) -> torch.Tensor:
        found: torch.Tensor = part.borrowed[name]
        return found

    return get_borrowed if name in kinds.borrowed else get


def _described(value: Any) -> str:
    """What a constant is, in words that are the same on every machine."""
    if isinstance(value, torch.Tensor):
        found = hashlib.blake2b(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, digest_size=16)
        return f"{value.dtype} {tuple(value.shape)} {found.hexdigest()}"
    return str(value.graph) if isinstance(value, fx.GraphModule) else str(value)
