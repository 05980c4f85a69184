"""The costs that are found without allocating are those of the real thing."""

from typing import Any

import pytest
import torch

from mpsl.errors import UsageError
from mpsl.job import ModelSection
from mpsl.nn.cost import block_costs, single_value_norms
from mpsl.nn.models import build, input_shape

torch.set_num_threads(1)

MODELS: list[tuple[str, dict[str, Any], int]] = [
    ("digits-cnn", {}, 5),
    ("har-cnn", {}, 3),
    ("lenet5", {}, 1),
    ("mlp", {"residual": True, "batch_norm": True, "dropout": 0.5}, 4),
    ("resnet18", {"image_size": 16, "num_classes": 10}, 2),
    ("vgg11", {"image_size": 32, "num_classes": 10, "head": "small"}, 2),
]


def really_stored(model: torch.nn.Module, batch: torch.Tensor) -> int:
    """Bytes that autograd keeps for a real pass over these blocks, weights, buffers and the input left out."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in (batch, *model.state_dict().values())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(batch)
    assert output.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in left_out)


@pytest.mark.parametrize(("name", "args", "batch_size"), MODELS)
def test_sizes_are_those_of_a_real_training_step(name: str, args: dict[str, Any], batch_size: int) -> None:
    model = build(name, **args)
    costs = block_costs(ModelSection(name, args), batch_size)
    data = batch = torch.rand(batch_size, *input_shape(name, **args))
    for block, cost in zip(model, costs, strict=True):
        batch = block(batch)
        assert cost.output_shape == batch.shape[1:]
        assert cost.output_bytes == batch.numel() * 4
        assert cost.parameter_bytes == cost.parameters * 4 == sum(p.numel() for p in block.parameters()) * 4
        state = sum(tensor.nbytes for tensor in block.state_dict().values())
        assert cost.parameter_bytes + cost.buffer_bytes == state
    assert sum(cost.stored_bytes for cost in costs) == really_stored(model, data)


@pytest.mark.parametrize(
    ("begin", "end", "kept_by_the_next_part"),
    [(1, 2, False), (3, 5, False), (4, 7, False), (2, 3, True), (6, 8, True)],  # a ReLU keeps its output, a pooling not
)
def test_a_part_stores_the_sum_of_its_blocks_and_its_input(begin: int, end: int, kept_by_the_next_part: bool) -> None:
    part, costs = build("digits-cnn")[begin:end], block_costs(ModelSection("digits-cnn", {}), 4)
    stored = really_stored(part, torch.rand(4, *costs[begin - 1].output_shape, requires_grad=True))
    passed_on = costs[end - 1].output_bytes if kept_by_the_next_part else 0
    assert stored + passed_on == sum(cost.stored_bytes for cost in costs[begin:end])


def test_flops_of_known_layers_grow_with_the_batch() -> None:
    costs = block_costs(ModelSection("lenet5", {}), 3)
    assert costs[0].flops == 3 * 2 * 28 * 28 * 25 * 6
    assert costs[3].flops == 3 * 2 * 120 * 84
    assert sum(cost.flops for cost in block_costs(ModelSection("resnet18", {}), 2)) == pytest.approx(
        2 * 2 * 1.814e9, rel=1e-3
    )


def test_costs_of_a_large_model_need_no_room_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    costs = block_costs(ModelSection("vgg19", {"num_classes": 10, "image_size": 32}), 4096)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(cost.parameters for cost in costs) == 139_611_210
    assert sum(cost.stored_bytes for cost in costs) > 7e9
    assert costs[0].name == "0 Conv2d+ReLU"


@pytest.mark.parametrize(
    ("name", "args", "norms"),
    [
        ("digits-cnn", {}, ()),
        ("digits-cnn", {"image_size": 4}, ("6.1",)),
        ("mlp", {}, ()),
        ("mlp", {"batch_norm": True, "hidden": [4, 4]}, ("0.2", "1.1")),
        ("resnet18", {"image_size": 32}, ()),
        ("resnet18", {"image_size": 8}, ("7.body.1", "7.body.4", "7.shortcut.1", "8.body.1", "8.body.4")),
    ],
)
def test_norms_that_cannot_train_on_one_sample(name: str, args: dict[str, Any], norms: tuple[str, ...]) -> None:
    assert single_value_norms(ModelSection(name, args)) == norms
    model, one = build(name, **args), torch.rand(1, *input_shape(name, **args))
    if norms:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(one)
        with pytest.raises(UsageError, match=norms[0]):
            block_costs(ModelSection(name, args), 1)
    else:
        model(one)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        block_costs(ModelSection("mlp", {}), 0)
