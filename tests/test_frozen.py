"""Parameters that do not train: which ones they are, one of each at a node, no state, and what a file brings."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hop_rounds import BLOCKS, session_of, session_plan
from safetensors.torch import save_file

from compute_node.performer import HopPerformer
from mpsl.errors import UsageError
from mpsl.job import ModelSection, OptimizerSection
from mpsl.machines.jobs import CopyPart, Prepare, Prepared
from mpsl.nn.block_bytes import block_bytes
from mpsl.nn.block_model import block_model, build_model
from mpsl.nn.cost import block_costs
from mpsl.nn.models import build
from mpsl.nn.part import allocated, frozen_tensors, trained_tensors
from mpsl.planning.seat_memory import in_memory, memory_strategies, part_sizes
from orchestrator.start_weights import built_and_loaded, match_of


def section_of(**keys: Any) -> ModelSection:
    return ModelSection("digits-cnn", {}, **keys)


@pytest.mark.parametrize(
    ("keys", "trains"),
    [
        ({}, {"0.0.weight", "0.1.weight", "8.bias"}),
        ({"freeze": ("0.*",)}, {"8.bias"}),
        ({"train": ("8.*", "0.1.*"), "freeze": ("0.1.weight",)}, {"8.bias"}),
        ({"train": ("0.*", "8.*")}, {"0.0.weight", "0.1.weight", "8.bias"}),
    ],
)
def test_what_trains(keys: dict[str, Any], trains: set[str]) -> None:
    found = {name for name, each in build_model(section_of(**keys)).named_parameters() if each.requires_grad}
    assert found & {"0.0.weight", "0.1.weight", "8.bias"} == trains


def test_globs_that_match_nothing_or_leave_nothing() -> None:
    with pytest.raises(UsageError, match=r"model.freeze: 'head.\*' matches no parameter of model digits-cnn"):
        block_model(section_of(freeze=("head.*",)))
    with pytest.raises(UsageError, match="nothing to train"):
        block_model(section_of(freeze=("*",)))


def test_copies_share_what_is_frozen() -> None:
    meta = block_model(section_of(freeze=("1.*",))).part(1, 3)
    shared = {name: torch.ones(tensor.shape) for name, tensor in frozen_tensors(meta)}
    one, other = (allocated(copy.deepcopy(meta), shared) for _ in range(2))
    for name, tensor in one.named_parameters():
        same = tensor.data_ptr() == dict(other.named_parameters())[name].data_ptr()
        assert same == name.startswith("1.") == (not tensor.requires_grad)
    assert {name for name, _ in trained_tensors(one)} >= {"1.1.running_mean", "2.0.weight"}


def test_a_node_holds_frozen_parameters_once(tmp_path: Path) -> None:
    whole_plan = session_plan()
    model = replace(whole_plan.job.model, freeze=("1.*", "2.*"))
    plan = replace(whole_plan, job=replace(whole_plan.job, model=model))
    performer = HopPerformer("node-1", tmp_path)
    prepared = performer.perform(Prepare(plan), session_of(plan))
    assert isinstance(prepared, Prepared)
    whole = sum(tensor.nbytes for tensor in block_model(plan.job.model).part(*BLOCKS).state_dict().values())
    assert 0 < prepared.frozen_bytes < whole
    assert prepared.weights_bytes + prepared.frozen_bytes == whole
    for device in ("dev-1", "dev-2"):
        performer.perform(CopyPart(device, 1, 1), session_of(plan))
    training = performer.sessions[session_of(plan)]
    held = [dict(copied.part.named_parameters()) for copied in training.copies.values()]
    pointers = {name: {each[name].data_ptr() for each in held} for name in held[0]}
    assert {len(found) for name, found in pointers.items() if name[0] in "12"} == {1}
    assert {len(found) for name, found in pointers.items() if name[0] not in "12"} == {2}


def test_frozen_bytes_count_once_and_have_no_state() -> None:
    all_train, none = (
        block_bytes(block_costs(section_of(freeze=freeze), 8), OptimizerSection("adam", 0.1))
        for freeze in ((), ("1.*", "2.*", "3.*"))
    )
    trained, frozen = part_sizes(all_train, (1, 4)), part_sizes(none, (1, 4))
    buffers = sum(cost.buffer_bytes for cost in block_costs(section_of(), 8)[1:4])
    assert frozen.frozen == trained.state - buffers
    assert (frozen.state, frozen.optimizer) == (buffers, 0)
    saved = trained.state - buffers
    assert in_memory(trained, 1).each - in_memory(frozen, 1).each == 3 * saved
    assert all(strategy.fixed >= frozen.frozen for strategy in memory_strategies(frozen, 1))


def weights_file(folder: Path, change: dict[str, torch.Tensor | None]) -> str:
    state: dict[str, torch.Tensor] = build("digits-cnn").state_dict()
    for name, tensor in change.items():
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, folder / "w.safetensors")
    return str(folder / "w.safetensors")


def test_weights_of_a_file_are_where_the_training_starts(tmp_path: Path) -> None:
    torch.manual_seed(4)
    path = weights_file(tmp_path, {})
    torch.manual_seed(4)
    expected = build("digits-cnn").state_dict()
    torch.manual_seed(5)
    found = built_and_loaded(section_of(weights=path)).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    fitting = match_of(section_of(weights=path))
    assert fitting is not None
    assert fitting.in_words() == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"8.weight": None}, "1 missing in the file: 8.weight"),
        ({"8.weight": torch.ones(3, 64)}, "1 of another shape: 8.weight"),
        ({"head.weight": torch.ones(3)}, "1 unknown to the model: head.weight"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, change: dict[str, torch.Tensor | None], says: str) -> None:
    path = weights_file(tmp_path, change)
    with pytest.raises(UsageError, match=says) as caught:
        match_of(section_of(weights=path))
    assert "strict = false" in str(caught.value)
    loose = match_of(section_of(weights=path, strict=False))
    assert loose is not None
    assert says in loose.in_words()
    torch.manual_seed(9)
    kept = build("digits-cnn").state_dict()["8.weight"]
    torch.manual_seed(9)
    found = built_and_loaded(section_of(weights=path, strict=False)).state_dict()
    assert torch.equal(found["8.weight"], kept) == ("8.weight" in change)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be read as safetensors.*relative to the working directory"):
        match_of(section_of(weights="nowhere.safetensors"))
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="has no tensor of model digits-cnn"):
        match_of(section_of(weights=str(tmp_path / "other.safetensors"), strict=False))
