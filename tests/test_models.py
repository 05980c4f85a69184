"""Models are the published ones, can be cut between any two blocks, and never change a tensor in place."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from mpsl.errors import UsageError
from mpsl.nn.models import arguments, build, describe, input_shape, names

torch.set_num_threads(1)

SMALL: list[tuple[str, dict[str, Any]]] = [
    ("digits-cnn", {}),
    ("digits-cnn", {"image_size": 28, "in_channels": 3, "num_classes": 4}),
    ("har-cnn", {}),
    ("har-cnn", {"length": 4, "in_channels": 1}),
    *(("lenet5", {"image_size": size}) for size in (4, 8, 11, 12, 28, 31, 32, 33)),
    ("mlp", {}),
    ("mlp", {"hidden": [8, 8, 5], "residual": True, "batch_norm": True, "dropout": 0.5, "in_features": 7}),
    ("resnet18", {"image_size": 8, "num_classes": 10}),
    ("resnet50", {"image_size": 16, "num_classes": 3, "in_channels": 1}),
    ("vgg11", {"image_size": 32, "num_classes": 10, "head": "small"}),
    ("vgg11", {"image_size": 65, "num_classes": 3, "head": "small", "in_channels": 1}),
]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "args", "published"),
    [
        ("lenet5", {}, 61_706),
        ("lenet5", {"image_size": 32}, 61_706),
        ("resnet18", {}, 11_689_512),
        ("resnet50", {}, 25_557_032),
        ("resnet101", {}, 44_549_160),
        ("vgg11", {}, 132_863_336),
        ("vgg16", {}, 138_357_544),
        ("vgg19", {"num_classes": 1000}, 143_667_240),
        ("vgg19", {"num_classes": 10, "image_size": 32}, 139_611_210),
    ],
)
def test_published_number_of_parameters(name: str, args: dict[str, Any], published: int) -> None:
    with torch.device("meta"):
        assert parameters(build(name, **args)) == published


def test_all_models_of_the_contract_are_there() -> None:
    contract = "digits-cnn har-cnn lenet5 mlp resnet101 resnet18 resnet50 vgg11 vgg16 vgg19"
    assert names() == contract.split()


@pytest.mark.parametrize("name", names())
def test_builds_on_the_meta_device_from_its_defaults(name: str) -> None:
    with torch.device("meta"):
        model = build(name, **arguments(name))
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        output = model(torch.empty(2, *input_shape(name)))
    assert output.shape == (2, arguments(name)["num_classes"])
    assert len(model) >= 5  # a device part, hops and a device part again


@pytest.mark.parametrize("name", names())
def test_nothing_works_in_place_and_no_bias_stands_before_a_batch_norm(name: str) -> None:
    with torch.device("meta"):
        modules = list(build(name).modules())
    assert not any(getattr(module, "inplace", False) for module in modules)
    for before, after in itertools.pairwise(modules):
        if isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
            assert before.bias is None


@pytest.mark.parametrize(("name", "args"), SMALL)
def test_blocks_in_turn_give_what_the_whole_gives_and_leave_their_input_alone(name: str, args: dict[str, Any]) -> None:
    model = build(name, **args)
    data = torch.randn(4, *input_shape(name, **args))  # 4, so that BatchNorm has several values even at 1×1
    torch.manual_seed(2)  # dropout
    whole = model(data)
    torch.manual_seed(2)
    batch = data
    for block in model:
        before = batch.clone()
        output = block(batch)
        assert torch.equal(batch, before)
        batch = output
    assert batch.shape == (4, describe(name, **args).num_classes)
    assert torch.equal(batch, whole)


@pytest.mark.parametrize(("name", "args"), SMALL[:3] + SMALL[-3:])
def test_the_seed_alone_fixes_the_initial_weights(name: str, args: dict[str, Any]) -> None:
    def initial(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build(name, **args).state_dict()

    first, again, other = initial(3), initial(3), initial(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_resnet_takes_the_small_stem_up_to_64() -> None:
    with torch.device("meta"):
        small, large = build("resnet18", image_size=64)[0], build("resnet18", image_size=65)[0]
        assert small(torch.empty(2, 3, 64, 64)).shape == (2, 64, 64, 64)
        assert large(torch.empty(2, 3, 65, 65)).shape == (2, 64, 17, 17)


def test_vgg_heads() -> None:
    with torch.device("meta"):
        small = build("vgg16", image_size=64, num_classes=10, head="small")
        full = build("vgg16", image_size=64, num_classes=10)
    assert (len(small), len(full)) == (14, 16)
    assert [module.in_features for module in small.modules() if isinstance(module, nn.Linear)] == [512 * 2 * 2]
    assert not any(isinstance(module, nn.Dropout) for module in small.modules())


def test_a_residual_block_adds_its_input_where_the_widths_agree() -> None:
    torch.manual_seed(0)
    plain = build("mlp", hidden=[6, 6, 4], in_features=3).eval()
    residual = build("mlp", hidden=[6, 6, 4], in_features=3, residual=True).eval()
    residual.load_state_dict(dict(zip(residual.state_dict(), plain.state_dict().values(), strict=True)))
    batch = torch.randn(5, 6)
    assert torch.equal(residual[1](batch), plain[1](batch) + batch)
    assert torch.equal(residual[2](batch), plain[2](batch))


def test_mlp_accepts_samples_of_any_shape_with_as_many_numbers() -> None:
    assert describe("mlp", in_features=64).accepts((1, 8, 8))
    assert describe("mlp").accepts((64,))
    assert not describe("mlp").accepts((63,))
    assert not describe("digits-cnn").accepts((64,))
    assert input_shape("mlp", in_features=64) == (64,)


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("vgg13", {}, "unknown model 'vgg13'; did you mean 'vgg1"),
        ("mlp", {"hiden": [3]}, "unknown key 'hiden'; did you mean 'hidden'"),
        ("mlp", {"hidden": []}, "at least one width"),
        ("mlp", {"hidden": [4, 0]}, "all positive"),
        ("mlp", {"hidden": ["4"]}, "hidden[0]: Expected `int`"),
        ("mlp", {"in_features": 0}, "in_features = 0"),
        ("mlp", {"residual": 1}, "residual: Expected `bool`"),
        ("digits-cnn", {"dropout": 1.0}, "dropout = 1.0, but it must be at least 0 and below 1"),
        ("digits-cnn", {"dropout": float("nan")}, "dropout = nan"),
        ("digits-cnn", {"num_classes": 1}, "num_classes = 1, but it must be at least 2"),
        ("digits-cnn", {"num_classes": "10"}, "num_classes: Expected `int`"),
        ("digits-cnn", {"image_size": 3}, "image_size = 3"),
        ("lenet5", {"image_size": 3}, "image_size = 3"),
        ("lenet5", {"image_size": True}, "image_size: Expected `int`"),
        ("har-cnn", {"length": 3}, "length = 3"),
        ("har-cnn", {"image_size": 28}, "unknown key 'image_size'"),
        ("resnet18", {"image_size": 7}, "image_size = 7"),
        ("resnet18", {"in_channels": 0}, "in_channels = 0"),
        ("vgg11", {"image_size": 31}, "image_size = 31"),
        ("vgg11", {"head": "smal"}, "head = 'smal'; did you mean 'small'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(name: str, args: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as error:
        build(name, **args)
    assert text in str(error.value)
