"""A job's model as blocks: the one seam between models of any structure and everything that cuts, plans and trains.

An `nn.Sequential` has its items as blocks, each a module that takes and returns one tensor. Any other module is
exported and cut by the values that are live (`mpsl/nn/graph/`). Both answer the same questions here. What a block
computes is never changed: the parts together compute what the person's own module computes.
"""

import copy
import dataclasses
import functools
import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Union

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from mpsl import facts, strict_json
from mpsl.errors import UsageError
from mpsl.functions import in_words
from mpsl.job import ModelSection
from mpsl.names import nearest
from mpsl.nn.edges import SINGLE, Edge, Values, single_edge
from mpsl.nn.freezing import freeze
from mpsl.nn.graph.outline import outline
from mpsl.nn.models import SampleSpec, build, describe, is_function, is_own, sample_of
from mpsl.nn.part import ChainPart, Part, allocated
from mpsl.shard import Shard

if TYPE_CHECKING:
    # Exporting needs modules that take seconds to import; a process without such a model never pays for them.
    from mpsl.nn.graph.graph_model import GraphModel

TRACED_BATCH = 3
"""Samples in the batch that an `nn.Sequential` is tried with."""


def block_model(section: ModelSection) -> "BlockModel":
    """Return the model of a job, not built. The same object for the same model, so ask as often as you like.

    Raises UsageError for a wrong name or argument, and for a module that cannot be cut.
    """
    said = facts.plain(section.uncut)
    return _block_model(strict_json.dumps(said, sort_keys=True))


@functools.lru_cache(maxsize=16)
def _block_model(said: str) -> "BlockModel":
    section = facts.read(ModelSection, json.loads(said), "model")
    what = f"model {section.name}"
    if is_function(section.name):
        model = outline(lambda: build(section.name, **section.args))
        freeze(section, model)
        if not isinstance(model, nn.Sequential):
            from mpsl.nn.graph.graph_model import GraphModel

            return GraphModel(model, sample_of(section, model), what)
    else:
        with without_memory():
            model = build(section.name, **section.args)
        freeze(section, model)
    assert isinstance(model, nn.Sequential)
    return ChainModel(model, sample_of(section, model), what, own=is_own(section.name))


def build_model(section: ModelSection) -> nn.Module:
    """Build the job's model, with the weights that torch's generator gives it, and freeze what the job freezes."""
    model = build(section.name, **section.args)
    freeze(section, model)
    return model


def build_whole(section: ModelSection) -> Part:
    """Build the whole model as one part, with the weights that torch's generator gives it."""
    model = block_model(section)
    part = allocated(model.part(0, len(model)))
    built = build_model(section).state_dict()
    for name, tensor in part.state_dict().items():
        tensor.copy_(built[name])
    return part


def refuse_inexact(section: ModelSection, module: nn.Module) -> None:
    """Raise UsageError if the model's blocks compute other bits than the built `module` itself."""
    model = block_model(section)
    if not isinstance(model, ChainModel):
        from mpsl.nn.graph import verification

        verification.refuse_inexact(model, module)


def check_shard(shard: Shard, section: ModelSection) -> None:
    """Raise UsageError unless the shard's samples and labels fit the model."""
    if is_function(section.name):
        model = block_model(section)
        shape = model.sample.shape
        shard.check(lambda found: found == shape, shape, model.classes)
    else:
        described = describe(section.name, **section.args)
        shard.check(described.accepts, described.input_shape(), described.num_classes)


def refuse_difference(model: "BlockModel", digests: Sequence[str]) -> None:
    """Raise UsageError that names the first block which computes something else here than `digests` say."""
    if not digests:
        return
    mine = list(model.digests())
    versions = f"install the same version of it as there, and of torch (here {torch.__version__})"
    if len(mine) != len(digests):
        raise UsageError(f"{model.what} has {len(mine)} blocks here and {len(digests)} at the orchestrator; {versions}")
    for number, (here, there) in enumerate(zip(mine, digests, strict=True)):
        if here != there:
            raise UsageError(
                f"{model.what}: block {model.block_name(number)} does not compute the same here as at the orchestrator "
                f"(its operators, constants or the shapes of its weights differ); {versions}"
            )


@contextmanager
def without_memory() -> Iterator[None]:
    """Tensors made in the block have no memory, and torch's generator is restored afterwards."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.enable_grad():
        yield


@contextmanager
def imagined(model: "BlockModel", batch: int) -> Iterator[tuple[Part, Values]]:
    """The whole model as one part, and a batch of samples, both without memory, while the block lasts."""
    if isinstance(model, ChainModel):
        with without_memory():
            yield model.part(0, len(model)), (torch.empty(batch, *model.sample.shape, dtype=model.sample.dtype),)
    else:
        from mpsl.nn.graph.imagined import imagined_samples, imagining

        whole = model.part(0, len(model))
        with imagining():
            yield allocated(whole), (imagined_samples(model.sample, batch),)


class ChainModel:
    """The items of an `nn.Sequential`. Raises UsageError that begins with `what` where they are no chain.

    `own`: the model is one of this package, so its blocks are known to work out of place and to be the same everywhere.
    """

    def __init__(self, model: nn.Sequential, sample: SampleSpec, what: str, own: bool = False) -> None:
        self.what = what
        self.sample = sample
        self._own = own
        self._blocks = _on_meta(model)
        self._frozen = any(not parameter.requires_grad for parameter in self._blocks.parameters())
        self._refuse_shared()

    def __len__(self) -> int:
        return len(self._blocks)

    aliases: ClassVar[Mapping[str, str]] = {}
    """Further names of weights that have several, and the names they go by: an item keeps all of its names."""

    @property
    def classes(self) -> int:
        """The size of the output's second dimension."""
        return (*self.edge(len(self), TRACED_BATCH)[0].shape, 0, 0)[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The items' names in the `nn.Sequential`."""
        return tuple(name for name, _ in self._blocks.named_children())

    def cut_at(self, path: str) -> int:
        """The number of the item `path`. Raises UsageError where there is none."""
        if path not in self.names:
            raise UsageError(f"{self.what} has no item {path!r}; {nearest(path, self.names)}")
        return self.names.index(path)

    def block_name(self, number: int) -> str:
        """A block's number and the kinds of its layers, `"2 Conv2d+BatchNorm2d+ReLU+MaxPool2d"`."""
        block = self._blocks[number]
        layers = list(block) if isinstance(block, nn.Sequential) else [block]
        return f"{number} " + "+".join(type(layer).__name__.lstrip("_") for layer in layers)

    def part(self, first: int, end: int) -> ChainPart:
        """Blocks [first, end) on the meta device."""
        blocks = list(self._blocks.named_children())[first:end]
        named = OrderedDict((name, copy.deepcopy(block)) for name, block in blocks)
        edges = (SINGLE, SINGLE) if self._own and not self._frozen else (self.edge(first, 1), self.edge(end, 1))
        return ChainPart(named, first, self._in_place, edges)

    @property
    def _in_place(self) -> frozenset[int]:
        return frozenset() if self._own else self._trace.in_place

    def state_names(self, first: int, end: int) -> list[str]:
        """The states of a part, in the order of the whole model's state dict."""
        blocks = list(self._blocks.named_children())[first:end]
        return [f"{name}.{state}" for name, block in blocks for state in block.state_dict()]

    def edge(self, cut: int, batch: int, training: bool = True) -> Edge:
        """What crosses a cut before block `cut`: the samples for 0, the output for the number of blocks."""
        shape, dtype = self._trace.values[cut] if cut else (self.sample.shape, self.sample.dtype)
        value = torch.empty(batch, *shape, dtype=dtype, device="meta")
        return single_edge(value, cut > 0 and self.trains_before(cut))

    def trains_before(self, cut: int) -> bool:
        """Whether a gradient is of use before block `cut`: not where all weights there are frozen."""
        before = [parameter for block in list(self._blocks)[:cut] for parameter in block.parameters()]
        return not self._frozen or any(parameter.requires_grad for parameter in before)

    def digests(self) -> Iterator[str]:
        """For each block, a digest of its operators and states; nothing for a model of this package."""
        if self._own:
            return
        for text, (_, block) in zip(self._trace.texts, self._blocks.named_children(), strict=True):
            said = [text, *(f"{name} {tensor.dtype} {tensor.shape}" for name, tensor in block.state_dict().items())]
            yield hashlib.blake2b("\n".join(said).encode(), digest_size=6).hexdigest()

    def single_value_norms(self) -> tuple[str, ...]:
        """The BatchNorms that see one value per channel, and so cannot train, in a micro-batch of one sample.

        The names are those of `named_modules()` and begin with the block's: `"8.body.1"`.
        """
        found: list[str] = []
        with without_memory():
            model = copy.deepcopy(self._blocks).eval()  # in training mode torch would raise at the first one
            for path, module in model.named_modules():
                if isinstance(module, _BatchNorm):

                    def look(_: nn.Module, inputs: tuple[torch.Tensor], path: str = path) -> None:
                        if inputs[0].numel() == inputs[0].shape[1]:
                            found.append(path)

                    module.register_forward_pre_hook(look)
            model(torch.empty(1, *self.sample.shape, dtype=self.sample.dtype))
        return tuple(found)

    @functools.cached_property
    def _trace(self) -> "_ChainTrial":
        """Runs the blocks one by one. Raises UsageError where one does not take and return one tensor."""
        texts, in_place = [], set()
        with without_memory():
            value = torch.empty(TRACED_BATCH, *self.sample.shape, dtype=self.sample.dtype)
            values = [(self.sample.shape, self.sample.dtype)]
            for number, (name, block) in enumerate(copy.deepcopy(self._blocks).named_children()):
                before, version = value, value._version
                recorder = _Recorder()
                try:
                    with recorder:
                        value = block(value)
                except Exception as error:  # whatever the person's code raises
                    raise UsageError(f"{self.what}: item {name} of the nn.Sequential: {in_words(error)}") from None
                if not isinstance(value, torch.Tensor):
                    raise UsageError(
                        f"{self.what}: item {name} of the nn.Sequential returns {type(value).__name__}; every item "
                        "must take and return one tensor; a module that is no nn.Sequential may pass on several"
                    )
                if before._version != version:
                    in_place.add(number)
                texts.append("\n".join(recorder.lines))
                values.append((tuple(value.shape[1:]), value.dtype))
        return _ChainTrial(tuple(texts), tuple(values), frozenset(in_place))

    def _refuse_shared(self) -> None:
        owners: dict[int, str] = {}
        for name, block in self._blocks.named_children():
            for path, tensor in block.state_dict(keep_vars=True).items():
                owner = owners.setdefault(id(tensor), name)
                if owner != name:
                    raise UsageError(
                        f"{self.what}: items {owner} and {name} of the nn.Sequential share {name}.{path}; put them and "
                        "what is between them into one item, or return a module that is no nn.Sequential"
                    )


@dataclasses.dataclass(frozen=True)
class _ChainTrial:
    """What the blocks do: the operators of each, the shape and dtype of what crosses, and who changes its input."""

    texts: tuple[str, ...]
    values: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    in_place: frozenset[int]


class _Recorder(TorchDispatchMode):
    """Writes down the operators that are called, with the shapes of their arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lines: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        said = [
            tuple(each.shape) if isinstance(each, torch.Tensor) else each for each in (*args, *(kwargs or {}).values())
        ]
        self.lines.append(f"{func} {[each for each in said if not isinstance(each, torch.Generator)]}")
        return func(*args, **(kwargs or {}))


def _on_meta(model: nn.Sequential) -> nn.Sequential:
    """Take the memory of what is sent; buffers that are not in the state dict keep their values."""
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    replaced: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = replaced.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
                )
                module._parameters[name] = empty
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) in kept:
                module._buffers[name] = buffer.to("meta")
    return model


BlockModel = Union[ChainModel, "GraphModel"]
"""What `block_model` returns."""
