"""A person's module as blocks: exported in both modes, cut where few bytes live, and given out part by part.

Building it needs no memory for weights, but some seconds. Nothing of the module itself is kept: what stays is the code
of its blocks, the description of its states, and the values of its constants.
"""

import functools
import hashlib
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from mpsl.errors import UsageError
from mpsl.names import nearest
from mpsl.nn.edges import Edge, EdgeValue
from mpsl.nn.graph.code import StateKinds, block_codes
from mpsl.nn.graph.exported import EXAMPLE_BATCH, exported
from mpsl.nn.graph.flow import Flow
from mpsl.nn.graph.graph_part import GraphPart, Mode, StateSpec
from mpsl.nn.graph.imagined import BATCH, gradients_reach, operations
from mpsl.nn.graph.places import Places, choose
from mpsl.nn.models import SampleSpec

Flags = tuple[bool, bool, bool]
"""Of a value that crosses: whether it is coded, requires a gradient, and gets one."""


class GraphModel:
    """The blocks of `model`, an outline (see `outline.py`). Raises UsageError that begins with `what`."""

    def __init__(self, model: nn.Module, sample: SampleSpec, what: str) -> None:
        self.what = what
        self.sample = sample
        example = torch.zeros(EXAMPLE_BATCH, *sample.shape, dtype=sample.dtype)
        self.states, self.aliases = _states(model)
        self._training, self._evaluation = (
            Flow(exported(model, example, what, training), what) for training in (True, False)
        )
        self._refuse_lost_changes()
        weights = {name: spec.nbytes for name, spec in self.states.items()}
        self.places: Places = choose(self._training, operations(self._training, self.states, sample), weights)
        bounds = [*self.places.starts, len(self._training.steps)]
        self._bounds = (bounds, self._evaluation_bounds())
        self._owners = self._owned()
        self._modes = functools.lru_cache(maxsize=64)(self._mode)
        self._flags = [tuple(flags) for flags in self._reached()]

    def __len__(self) -> int:
        return len(self.places.starts)

    @property
    def classes(self) -> int:
        """The size of the output's second dimension."""
        return (*self.edge(len(self), BATCH)[0].shape, 0, 0)[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The module at whose call each block begins."""
        return self.places.names

    def cut_at(self, path: str) -> int:
        """The number of the block that begins where module `path` is called. Raises UsageError where none does."""
        places, why = self.places, ""
        if path in places.steps:
            if places.steps[path] in places.starts[1:]:
                return places.starts.index(places.steps[path])
            why = places.refused.get(path) or "another place near it has fewer bytes"
            step = places.steps[path]
            near = sorted(range(1, len(self)), key=lambda number: abs(places.starts[number] - step))[:2]
            hint = "cut at " + " or ".join(self.names[number] for number in sorted(near)) if near else ""
        else:
            why, hint = "no module of this name is called", nearest(path, self.names[1:]) if len(self) > 1 else ""
        raise UsageError(f"{path}: {self.what} cannot be cut there: {why}" + (f"; {hint}" if hint else ""))

    def block_name(self, number: int) -> str:
        """A block's number and the module at whose call it begins."""
        return f"{number} {self.names[number] or 'start'}"

    def part(self, first: int, end: int) -> GraphPart:
        """Blocks [first, end) on the meta device."""
        owned = {self.states[name]: self._owners[name] for name in self.state_names(first, end)}
        borrowed = [self.states[name] for name in sorted(self._borrowed(first, end))]
        modes = tuple(self._modes(number, first, end) for number in (0, 1))
        edges, probe_edges = (
            (self.edge(first, BATCH, training), self.edge(end, BATCH, training)) for training in (True, False)
        )
        return GraphPart(first, (modes[0], modes[1]), edges, probe_edges, owned, borrowed)

    def state_names(self, first: int, end: int) -> list[str]:
        """The states that a part owns, in the order of the whole model's state dict."""
        return [name for name in self.states if first <= self._owners[name] < end]

    def edge(self, cut: int, batch: int, training: bool = True) -> Edge:
        """What crosses a cut before block `cut`: the samples for 0, the output for the number of blocks."""
        flow = self._training if training else self._evaluation
        nodes = flow.live(self._bounds[0 if training else 1][cut])
        known = (
            self._flags[cut]
            if training
            else [(node.meta["val"].dtype == torch.float32, False, False) for node in nodes]
        )
        return tuple(
            EdgeValue(
                str(node),
                node.meta["val"].dtype,
                flow.shape(node, batch),
                flow.nbytes(node, batch),
                coded,
                requires,
                gets,
            )
            for node, (coded, requires, gets) in zip(nodes, known, strict=True)
        )

    def digests(self) -> Iterator[str]:
        """For each block, a digest of what it computes in both modes, its states and its constants."""
        kinds = self._kinds(frozenset())
        texts = zip(
            *(
                block_codes(flow, bounds, kinds)
                for flow, bounds in zip((self._training, self._evaluation), self._bounds, strict=True)
            ),
            strict=True,
        )
        for number, codes in enumerate(texts):
            said = [code.text for code in codes]
            said += [repr(self.states[name]) for name in self.state_names(number, number + 1)]
            yield hashlib.blake2b("\n".join(said).encode(), digest_size=6).hexdigest()

    def single_value_norms(self) -> tuple[str, ...]:
        """The BatchNorms that see one value per channel in a micro-batch of one sample."""
        flow = self._training
        found = []
        for step in flow.steps:
            schema = getattr(step.target, "_schema", None)
            if schema is not None and schema.name == "aten::batch_norm" and step.args[5]:
                shape = flow.shape(step.args[0], 1)  # type: ignore[arg-type]
                if shape[0] == 1 and all(size == 1 for size in shape[2:]):
                    found.append(flow.path(step))
        return tuple(found)

    def _mode(self, number: int, first: int, end: int) -> Mode:
        flow, bounds = (self._training, self._evaluation)[number], self._bounds[number]
        codes = block_codes(flow, bounds[first : end + 1], self._kinds(frozenset(self._borrowed(first, end))))
        rows = ((place, flow.rows(node)) for place, node in enumerate(flow.live(bounds[first])))
        value, (dimension, size) = next((place, known) for place, known in rows if known is not None)
        return Mode(codes, (value, dimension, size))

    def _kinds(self, borrowed: frozenset[str]) -> StateKinds:
        return StateKinds(frozenset(name for name, spec in self.states.items() if spec.parameter), borrowed)

    def _evaluation_bounds(self) -> list[int]:
        """The places in the evaluation graph where the same modules are called."""
        steps: dict[str, int] = {}
        for number, node in enumerate(self._evaluation.steps):
            for path in self._evaluation.graph.paths[node]:
                steps.setdefault(path, number)
        bounds = [0]
        for name in self.places.names[1:]:
            place = steps.get(name, -1)
            # A module that computes nothing in evaluation: its block is empty there.
            bounds.append(place if place >= bounds[-1] else bounds[-1])
            why = self._evaluation.why_not(bounds[-1]) if bounds[-1] else ""
            if why:
                raise UsageError(f"{self.what}: in evaluation, it cannot be cut at {name}: {why}")
        return [*bounds, len(self._evaluation.steps)]

    def _owned(self) -> dict[str, int]:
        """The block that owns each state: the first that uses it. One that nobody uses goes with its neighbour."""
        found: dict[str, int] = {}
        users: dict[str, set[int]] = {}
        for flow, bounds in zip((self._training, self._evaluation), self._bounds, strict=True):
            for name, steps in flow.uses.items():
                users.setdefault(name, set()).update(_block_of(bounds, step) for step in steps)
        before = 0
        for name in self.states:
            blocks = sorted(users.get(name, {before}))
            if len(blocks) > 1 and blocks != [0, len(self) - 1]:
                raise UsageError(f"{self.what}: {name} is used by other blocks in evaluation than in training")
            before = found[name] = blocks[0]
        self._users = users
        return found

    def _borrowed(self, first: int, end: int) -> set[str]:
        """The states that the part uses and another part owns."""
        return {
            name
            for name, blocks in self._users.items()
            if any(first <= block < end for block in blocks) and not first <= self._owners[name] < end
        }

    def _reached(self) -> Iterator[list[Flags]]:
        """The flags of the values at each cut, the model's input and output included."""
        nodes = [self._training.live(place) for place in self._bounds[0]]
        self._flags = [tuple([(True, True, True)] * len(each)) for each in nodes]
        trains = all(spec.trains for spec in self.states.values() if spec.parameter)
        differentiable = self._reach(everything=True)
        reached = differentiable if trains else self._reach(everything=False)
        yield [(self.sample.dtype == torch.float32, False, False)]
        for values, flags, possible in zip(nodes[1:], reached, differentiable, strict=True):
            yield [
                (could and node.meta["val"].dtype == torch.float32, requires, requires and gets)
                for node, (requires, gets), (could, _) in zip(values, flags, possible, strict=True)
            ]

    def _reach(self, everything: bool) -> list[list[tuple[bool, bool]]]:
        """Where gradients reach; `everything`: as if every parameter trained."""
        parts = [self.part(number, number + 1) for number in range(len(self))]
        for part in parts:
            for parameter in (*part.parameters(), *part.borrowed.values()):
                if everything and parameter.dtype.is_floating_point:
                    parameter.requires_grad_()
        return gradients_reach(parts, self.sample)

    def _refuse_lost_changes(self) -> None:
        """Raise UsageError for a buffer that changes in training and is not in the state dict."""
        graph = self._training.graph
        changed = [node for node in graph.constants if node not in self._training.free and node.users]
        if changed:
            raise UsageError(
                f"{self.what}: {changed[0].target} changes in training and is not in the state dict, so nobody would "
                "average it; register it with register_buffer(…, persistent=True)"
            )


def _states(model: nn.Module) -> tuple[dict[str, StateSpec], dict[str, str]]:
    """The states of the state dict in its order, each once, and the further names of those that have several."""
    parameters = {id(parameter): parameter for parameter in model.parameters()}
    found: dict[str, StateSpec] = {}
    seen: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            aliases[name] = seen[id(tensor)]
        else:
            seen[id(tensor)] = name
            is_parameter = id(tensor) in parameters
            trains = is_parameter and tensor.requires_grad
            found[name] = StateSpec(name, tuple(tensor.shape), tensor.dtype, is_parameter, trains)
    return found, aliases


def _block_of(bounds: list[int], step: int) -> int:
    return next(number for number, (first, end) in enumerate(pairwise(bounds)) if first <= step < end)
