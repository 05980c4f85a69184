"""What is said of a model that cannot be cut; what `mpsl models show` shows; whose functions may be computed."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from broker.command import mpsl
from compute_node.performer import HopPerformer
from device_agent.performer import DevicePerformer
from mpsl.allowed_models import AllowedModels, allowed_models, options_for
from mpsl.errors import UsageError
from mpsl.job import InputSection, ModelSection
from mpsl.machines.jobs import MeasureBlocks
from mpsl.nn.block_model import block_model, refuse_inexact
from mpsl.nn.models import build
from mpsl.profile_questions import Question
from orchestrator.job_file import with_numbered_cuts

torch.set_num_threads(1)

SIX = InputSection((6,))


def section_of(name: str, sample: InputSection | None = SIX) -> ModelSection:
    return ModelSection(f"zoo:{name}", {}, None, sample)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(mpsl, [str(each) for each in arguments], standalone_mode=False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("DependsOnData", r"cannot be exported at .*zoo\.py:\d+: what it computes depends on values of tensors"),
        ("FixedBatch", r"cannot be exported.*its code fixes the number of samples in a batch"),
        ("ForgetfulCounter", r"seen changes in training and is not in the state dict"),
        ("ReturnsTwo", r"it returns tuple; return one tensor"),
        ("nothing_of_that_name", r"has no attribute 'nothing_of_that_name'"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_words(name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        block_model(section_of(name))
    assert str(caught.value).startswith(f"model zoo:{name}")


def test_the_place_in_the_source_is_that_of_the_decision() -> None:
    with pytest.raises(UsageError) as caught:
        block_model(section_of("DependsOnData"))
    line = int(re.findall(r"zoo\.py:(\d+)", str(caught.value))[-1])
    assert "if x.sum() > 0" in (Path(__file__).parent / "zoo.py").read_text().splitlines()[line - 1]


@pytest.mark.parametrize("name", ["OtherwiseWhenExported", "RandomConstant"])
def test_a_module_whose_export_computes_something_else_is_refused(name: str) -> None:
    section = section_of(name)
    torch.manual_seed(9)
    module = build(section.name)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="output differs from that of the module itself"):
        refuse_inexact(section, module)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_a_faithful_export_is_accepted_and_nothing_is_changed() -> None:
    section = section_of("ResNet", InputSection((3, 16, 16)))
    module = build(section.name)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    refuse_inexact(section, module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_model_that_does_not_say_what_a_sample_is() -> None:
    with pytest.raises(UsageError, match="does not say what a sample is"):
        block_model(section_of("ResNet", None))


def test_samples_never_leave_the_device() -> None:
    model = block_model(section_of("SamplesAtTheEnd"))
    assert len(model) == 1
    with pytest.raises(UsageError, match="the samples themselves are needed later"):
        model.cut_at("second")


def test_cuts_by_name() -> None:
    job = {"model": {"name": "zoo:ResNet", "cuts": ["layer1.0", 3, "fc"], "input": {"shape": [3, 16, 16]}}}
    model = block_model(section_of("ResNet", InputSection((3, 16, 16))))
    found = with_numbered_cuts(job, "job")["model"]["cuts"]
    assert found == [model.cut_at("layer1.0"), 3, len(model) - 1]
    job["model"]["cuts"] = ["layer1.0.relu"]
    with pytest.raises(UsageError, match=r"job: model.cuts: layer1.0.relu: .* changes in place; cut at .* or "):
        with_numbered_cuts(job, "job")
    job["model"]["cuts"] = ["layer9"]
    with pytest.raises(UsageError, match="no module of this name is called; did you mean"):
        with_numbered_cuts(job, "job")
    items = {"model": {"name": "zoo:in_place_chain", "cuts": ["relu", "fc"], "input": {"shape": [3, 8, 8]}}}
    assert with_numbered_cuts(items, "job")["model"]["cuts"] == [1, 5]


def test_show_tells_blocks_crossings_and_refused_places(tmp_path: Path) -> None:
    arguments = (
        "models",
        "show",
        "zoo:UNet",
        "--input",
        "1x8x8",
        "--batch",
        "4",
        "--plot",
        tmp_path / "m.svg",
        "--json",
    )
    result = run(*arguments)
    assert result.exception is None
    *text, last = result.stdout.splitlines()
    view = json.loads(last)
    assert view["input_shape"] == [1, 8, 8]
    assert view["parameters"] == sum(block["parameters"] for block in view["blocks"])
    assert max(len(block["crosses"]) for block in view["blocks"]) == 3
    assert all(block["output_bytes"] == sum(row["nbytes"] for row in block["crosses"]) for block in view["blocks"])
    assert "changes in place" in view["refused"]["down1.2"]
    assert any("no block can begin at" in line for line in text)
    assert (tmp_path / "m.svg").read_text().count("<rect") > 4 * len(view["blocks"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--args", "{"), "is not JSON"),
        (("--args", "[1]"), "give an object"),
        (("--input", "3xx"), "a shape is sizes with x between them"),
        (("--input", "3:float99"), "unknown dtype 'float99'"),
    ],
)
def test_bad_options_of_show(arguments: tuple[str, ...], says: str) -> None:
    result = run("models", "show", "zoo:UNet", *arguments)
    assert isinstance(result.exception, UsageError)
    assert says in str(result.exception)


def test_a_function_is_computed_only_where_its_owner_allows_it() -> None:
    asked = MeasureBlocks(Question(ModelSection("os:getcwd", {}, None, SIX), 2, "sgd", ((0, 1),)))
    for performer in (HopPerformer("node-1", profiler=object()), DevicePerformer("dev-1", None, object())):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"does not compute the model os:getcwd.*start it with --models os:getcwd"):
            performer.perform(asked, None)
    allowed_models(["zoo:*", "lab.*:net"]).check("zoo:ResNet", "node-1")
    AllowedModels().check("resnet18", "node-1")
    with pytest.raises(UsageError, match=r"its owner allows zoo:\*, lab\.\*:net"):
        allowed_models(["zoo:*", "lab.*:net"]).check("os:system", "node-1")
    with pytest.raises(UsageError, match="names a function"):
        allowed_models(["zoo"])
    assert options_for("resnet18") == []
    assert options_for("zoo:UNet") == ["--models", "zoo:UNet"]
