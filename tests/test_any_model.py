"""Models of any structure, cut by the graph: split training gives the bits of the person's own module."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.oracle import BlockSeeds, OracleSetting, train
from mpsl.errors import UsageError
from mpsl.job import InputSection, ModelSection, OptimizerSection
from mpsl.messages import Activation, Ticket
from mpsl.nn.block_model import block_model, refuse_difference
from mpsl.nn.edges import Values
from mpsl.nn.models import build
from mpsl.nn.part import allocated, edges_of, lend
from mpsl.nn.tensors import decode_all, encode_all, gradients_of
from mpsl.nn.training_copy import TrainingCopy
from mpsl.wire import decode, encode

torch.set_num_threads(1)

IMAGES, TOKENS = InputSection((3, 16, 16)), InputSection((10,), "int64")
ZOO = {
    "ResNet": IMAGES,
    "UNet": InputSection((1, 8, 8)),
    "LstmClassifier": TOKENS,
    "TinyGpt": TOKENS,
    "MobileNet": IMAGES,
    "in_place_chain": InputSection((3, 8, 8)),
}
SGD = OptimizerSection("sgd", 0.05, momentum=0.9)
ADAM = OptimizerSection("adam", 0.01)


def section_of(name: str) -> ModelSection:
    return ModelSection(f"zoo:{name}", {}, None, {**ZOO, **TRANSFORMERS}[name])


TRANSFORMERS = {"vit": IMAGES, "gpt2": TOKENS, "llama": TOKENS, "bert": TOKENS}


def over_the_wire(tensor_of: Values, edge: object, ticket: Ticket) -> Values:
    """What the other end of a cut holds."""
    message = Activation(ticket, encode_all(tensor_of, edge, "fp32"))  # type: ignore[arg-type]
    received = decode(bytearray(b"".join(bytes(each) for each in encode(message))))
    assert isinstance(received, Activation)
    return decode_all(received.tensor, edge, "fp32", 1 << 24)  # type: ignore[arg-type]


class SplitModel:
    """All parts of a model in this process; what crosses a cut goes through the wire format."""

    def __init__(
        self, section: ModelSection, cuts: Sequence[int], optimizer: OptimizerSection, recompute: bool
    ) -> None:
        model = block_model(section)
        bounds = [0, *cuts, len(model)]
        self.parts = [allocated(model.part(*blocks)) for blocks in itertools.pairwise(bounds)]
        lend(self.parts[0], self.parts[-1])
        self.names = [name for blocks in itertools.pairwise(bounds) for name in model.state_names(*blocks)]
        self._arguments = optimizer, recompute

    def load(self, state: dict[str, torch.Tensor]) -> None:
        for part in self.parts:
            for name, tensor in part.state_dict().items():
                tensor.copy_(state[name])
        optimizer, recompute = self._arguments
        self.copies: list[TrainingCopy] = []
        for number, part in enumerate(self.parts):
            last = number == len(self.parts) - 1
            again, lender = recompute and number > 0 and not last, self.copies[0] if last and number else None
            self.copies.append(TrainingCopy(part, optimizer, 5, number > 0, again, lender))

    def train(self, batch: int, x: torch.Tensor, y: torch.Tensor, micros: int) -> None:
        """All forwards of a batch, then all of its backwards, as in a run."""
        inputs = torch.tensor_split(x, micros)
        tickets = [Ticket(1, 1, "dev-1", 1, 0, batch, micro, len(inputs)) for micro in range(len(inputs))]
        back: list[Values] = []
        for ticket, samples, labels in zip(tickets, inputs, torch.tensor_split(y, micros), strict=True):
            values: Values = (samples,)
            for copied in self.copies[:-1]:
                values = over_the_wire(copied.forward(ticket, values), edges_of(copied.part)[1], ticket)
            (output,) = self.copies[-1].forward(ticket, values)
            output.requires_grad_()
            mean = functional.cross_entropy(output, labels)
            (mean if len(inputs) == 1 else mean * len(samples) / len(x)).backward()
            assert output.grad is not None
            back.append(self.copies[-1].backward(ticket, (output.grad,)))
        for ticket, gradients in zip(tickets, back, strict=True):
            for copied in reversed(self.copies[:-1]):
                received = over_the_wire(gradients, gradients_of(edges_of(copied.part)[1]), ticket)
                gradients = copied.backward(ticket, received)  # noqa: PLW2901

    def state(self) -> dict[str, torch.Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.state_dict().items()}


def data_for(section: ModelSection, samples: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(4)
    assert section.input is not None
    shape = (samples, *section.input.shape)
    x = chance.integers(0, 20, shape) if section.input.dtype == "int64" else chance.standard_normal(shape)
    return x.astype(np.float32), chance.integers(0, min(4, classes), samples)


def cut_lists(blocks: int) -> list[list[int]]:
    """The device keeps as little and as much as it can; every block on its own; a hop in the middle."""
    found = [[1, blocks - 1], list(range(1, blocks)), [blocks // 2, blocks // 2 + 1], [1, 2]]
    return [cuts for cuts in found if all(0 < cut < blocks for cut in cuts) and len(set(cuts)) == len(cuts) > 1]


def assert_split_is_unsplit(section: ModelSection, optimizer: OptimizerSection, micros: int, recompute: bool) -> None:
    known = block_model(section)
    assert len(known) > 2
    torch.manual_seed(1)
    model = build(section.name)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, y = data_for(section, 14, known.classes)
    assert section.input is not None
    setting = OracleSetting(
        section.name, {}, optimizer.name, optimizer.lr, 1, 6, micro_batches=micros, momentum=optimizer.momentum,
        seed=5, shuffle=False, dtype=section.input.dtype, blocks=known.names,
    )  # fmt: skip
    train(model, BlockSeeds(model, known.names), setting, "dev-1", 1, x, y)
    expected = model.state_dict()
    samples, labels = torch.from_numpy(x).to(known.sample.dtype), torch.from_numpy(y)
    for cuts in cut_lists(len(known)):
        split = SplitModel(section, cuts, optimizer, recompute)
        split.load(start)
        assert list(split.state()) == split.names
        for batch, first in enumerate(range(0, 14, 6)):
            split.train(batch, samples[first : first + 6], labels[first : first + 6], micros)
        found = split.state()
        different = [name for name in found if not torch.equal(found[name], expected[name])]
        assert different == [], (cuts, different[:3])
        trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
        # A bias before a BatchNorm gets no gradient but rounding errors, and may stay.
        assert sum(torch.equal(expected[name], start[name]) for name in trained) <= len(trained) // 10
        shared = {id(tensor) for name, tensor in model.state_dict(keep_vars=True).items() if name in found}
        assert {id(tensor) for tensor in model.state_dict(keep_vars=True).values()} == shared


@pytest.mark.parametrize("name", ["ResNet", "TinyGpt"])
def test_split_training_gives_the_bits_of_the_module(name: str) -> None:
    assert_split_is_unsplit(section_of(name), SGD, 1, recompute=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["UNet", "LstmClassifier", "MobileNet"])
def test_so_does_that_of_other_structures(name: str) -> None:
    assert_split_is_unsplit(section_of(name), SGD, 1, recompute=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_so_does_that_of_transformers(name: str) -> None:
    assert_split_is_unsplit(section_of(name), SGD, 1, recompute=False)


@pytest.mark.parametrize("name", ["UNet", "TinyGpt", "in_place_chain"])
def test_so_it_does_with_micro_batches_adam_and_recomputation(name: str) -> None:
    assert_split_is_unsplit(section_of(name), ADAM, 2, recompute=True)


def test_several_values_of_several_types_cross_a_cut() -> None:
    model = block_model(section_of("TinyGpt"))
    edge = model.edge(len(model) // 2, 2)
    assert sorted((value.dtype, value.coded, value.gradient) for value in edge if not value.gradient) == [
        (torch.bool, False, False)
    ]
    skips = block_model(section_of("UNet")).edge(3, 2)
    assert len(skips) > 1
    assert all(value.gradient for value in skips)


def test_weights_that_are_shared_are_owned_once_by_the_first_part() -> None:
    model = block_model(section_of("TinyGpt"))
    blocks = len(model)
    assert "head.weight" not in model.state_names(0, blocks)
    assert "tokens.weight" in model.state_names(0, 1)
    last = model.part(blocks - 1, blocks)
    assert "tokens.weight" not in last.state_dict()


def test_a_difference_between_two_machines_is_named() -> None:
    model = block_model(section_of("ResNet"))
    digests = list(model.digests())
    refuse_difference(model, digests)
    digests[2] = "0" * 12
    with pytest.raises(UsageError, match=rf"block 2 {model.names[2]} does not compute the same here"):
        refuse_difference(model, digests)
    with pytest.raises(UsageError, match="blocks here and 1 at the orchestrator"):
        refuse_difference(model, digests[:1])
