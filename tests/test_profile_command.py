"""`mpsl profile` from its options to PROFILE.json: sizes, table, merging, refusals, and that a plan reads it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from broker.command import run
from broker.hardware import hardware_name
from mpsl import facts
from mpsl.errors import MeasurementError
from mpsl.job import ModelSection
from mpsl.nn.block_sizes import profile_of_sizes
from mpsl.nn.models import build, input_shape
from mpsl.planning.profile_file import Profile
from orchestrator import measuring
from orchestrator.commands import plan as plan_command
from orchestrator.commands import profile as command
from orchestrator.measuring import Measured, MeasuringTask
from orchestrator.wire_cost import WireCost, cuts_of_one_hop, wire_cost

FLEET = """
devices = [{ id = "pi", hardware = "small", count = 2, up_mbps = 20, down_mbps = 50, latency_ms = 5, samples = 100 }]
nodes = [{ id = "server", hardware = "big", memory_gib = 2, link_mbps = 1000, cost_per_hour = 0.5 }]
broker = { link_mbps = 1000, latency_ms = 0.5 }
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MeasuringTask, int]]:
    """Nothing is measured; what would have been."""
    found: list[tuple[MeasuringTask, int]] = []

    def measure(task: MeasuringTask, copies: int) -> Measured:
        found.append((task, copies))
        blocks = len(build(task.model.name, **task.model.args))
        return Measured((0.001,) * blocks, (0.002,) * blocks, (0.0005,) * blocks, 0.0036 * blocks, 2e9)

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "wire_cost", lambda *_: WireCost(1.5, 0.5))
    monkeypatch.setattr(command, "usable_cores", lambda: 4)
    return found


def profiled(out: Path, *options: str, model: str = "mlp", batch: int = 8) -> Result:
    asked = ["--model", model, "--batch-size", str(batch), "--out", str(out), *options]
    return CliRunner().invoke(command.profile, asked, standalone_mode=False)


def test_the_file_is_the_contracts(tmp_path: Path, asked: list[tuple[MeasuringTask, int]]) -> None:
    out = tmp_path / "p.json"
    result = profiled(out, "--args", '{"hidden": [16, 12]}', "--hardware", "big", "--threads", "2")
    assert result.exception is None
    data = json.loads(out.read_text())
    assert list(data) == ["model", "args", "batch_size", "input_bytes", "blocks", "hardware"]
    assert (data["model"], data["args"], data["batch_size"]) == ("mlp", {"hidden": [16, 12]}, 8)
    assert data["input_bytes"] == 8 * 64 * 4
    assert data["blocks"][0] == {
        "name": "0 Flatten+Linear+ReLU", "parameter_bytes": (64 * 16 + 16) * 4, "output_bytes": 8 * 16 * 4,
        "stored_bytes": 8 * 16 * 4,
    }  # fmt: skip
    assert data["hardware"] == {
        "big": {
            "forward_ms": [1.0] * 3, "backward_ms": [2.0] * 3, "step_ms": [0.5] * 3,
            "wire_cpu_s_per_gb": 1.5, "copy_gb_per_s": 2.0, "cores": 4, "threads": 2,
        }
    }  # fmt: skip
    assert asked == [(MeasuringTask(ModelSection("mlp", {"hidden": [16, 12]}), 8, "sgd", 2, 4.0), 2)]
    assert "the blocks add up to 10.50 ms, the whole model takes 10.80 ms (-2.8%)" in result.stdout
    assert result.stdout.splitlines()[-1] == f"{out}: mlp, batches of 8, on big"
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


def test_as_many_compute_at_once_as_fill_the_cores_or_as_are_asked_for(
    tmp_path: Path, asked: list[tuple[MeasuringTask, int]]
) -> None:
    profiled(tmp_path / "p.json")
    profiled(tmp_path / "p.json", "--threads", "3")
    profiled(tmp_path / "p.json", "--copies", "3", "--optimizer", "adam")
    assert [(task.threads, task.optimizer, copies) for task, copies in asked] == [
        (1, "sgd", 4), (3, "sgd", 1), (1, "adam", 3),
    ]  # fmt: skip
    assert list(json.loads((tmp_path / "p.json").read_text())["hardware"]) == [hardware_name()]


@pytest.mark.parametrize(("name", "batch"), [("mlp", 5), ("digits-cnn", 6)])
def test_sizes_are_what_a_training_step_really_has(name: str, batch: int) -> None:
    sizes = profile_of_sizes(ModelSection(name), batch)
    model = build(name)
    data = torch.rand(batch, *input_shape(name))
    assert sizes.input_bytes == data.nbytes == batch * math.prod(input_shape(name)) * 4
    kept: dict[int, torch.UntypedStorage] = {}
    left_out = {tensor.untyped_storage().data_ptr() for tensor in (data, *model.state_dict().values())}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    value = data
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for block, size in zip(model, sizes.blocks, strict=True):
            value = block(value)
            assert size.output_bytes == value.nbytes
            assert size.parameter_bytes == sum(parameter.nbytes for parameter in block.parameters())
    stored = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in left_out)
    assert sum(block.stored_bytes for block in sizes.blocks) == stored


def test_a_plan_reads_two_machines_from_one_file(tmp_path: Path, asked: list[tuple[MeasuringTask, int]]) -> None:
    small, both, fleet = tmp_path / "small.json", tmp_path / "both.json", tmp_path / "f.toml"
    assert profiled(small, "--hardware", "small").exception is None
    assert profiled(both, "--hardware", "big", "--merge", str(small)).exception is None
    assert set(json.loads(both.read_text())["hardware"]) == {"small", "big"}
    fleet.write_text(FLEET)
    result = CliRunner().invoke(plan_command.plan, ["--profile", str(both), "--fleet", str(fleet), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1])["seats"][0]["node"] == "server"


def test_a_machine_measured_again_takes_its_own_place(tmp_path: Path, asked: list[tuple[MeasuringTask, int]]) -> None:
    path = tmp_path / "p.json"
    profiled(path, "--hardware", "small")
    data = json.loads(path.read_text())
    data["hardware"]["small"]["forward_ms"] = [9.0] * 5
    del data["hardware"]["small"]["copy_gb_per_s"]
    path.write_text(json.dumps(data | {"hardware": {**data["hardware"], "old": data["hardware"]["small"]}}))
    assert profiled(path, "--hardware", "small", "--merge", str(path)).exception is None
    hardware = json.loads(path.read_text())["hardware"]
    assert hardware["small"]["forward_ms"] == [1.0] * 5
    assert hardware["old"] == data["hardware"]["small"], "what is not known stays left out"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "lenet5"}, "model is 'lenet5', here it is 'mlp'"),
        ({"args": {"hidden": [2]}}, "args is {'hidden': [2]}, here it is {}"),
        ({"batch_size": 9}, "batch_size is 9, here it is 8"),
        ({"blocks": 4}, "4 blocks, here the model has 5"),
        ({"output_bytes": 1}, "block 2 is BlockProfile"),
    ],
)
def test_a_profile_of_something_else_is_refused_before_anything_is_measured(
    tmp_path: Path, asked: list[tuple[MeasuringTask, int]], changes: dict[str, Any], message: str
) -> None:
    other, out = tmp_path / "other.json", tmp_path / "p.json"
    data = facts.plain(profile_of_sizes(ModelSection("mlp"), 8))
    if "blocks" in changes:
        changes = {"blocks": data["blocks"][: changes["blocks"]]}
    if "output_bytes" in changes:
        data["blocks"][2] |= changes
        changes = {}
    other.write_text(json.dumps(data | changes))
    result = profiled(out, "--merge", str(other))
    assert message in str(result.exception)
    assert str(result.exception).startswith(f"{other}: ")
    assert (asked, out.exists()) == ([], False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--args", "{"), "is not JSON"),
        (("--args", "[1]"), "give an object"),
        (("--args", '{"hiden": [3]}'), "did you mean 'hidden'"),
        (("--threads", "5"), "this machine has 4 cores"),
        (("--merge", "nowhere.json"), "nowhere.json: cannot be read"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(
    tmp_path: Path, asked: list[tuple[MeasuringTask, int]], options: tuple[str, ...], message: str
) -> None:
    result = profiled(tmp_path / "p.json", *options)
    assert message in str(result.exception)
    assert (asked, list(tmp_path.iterdir())) == ([], [])


def test_what_does_not_add_up_leaves_the_file_as_it_was_and_fails(
    tmp_path: Path,
    asked: list[tuple[MeasuringTask, int]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "p.json"
    out.write_text("old")

    def measure(task: MeasuringTask, copies: int) -> Measured:
        raise MeasurementError("the blocks add up to 9 ms a batch, the whole model takes 10 ms")

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr("sys.argv", ["profile", "--model", "mlp", "--batch-size", "8", "--out", str(out)])
    assert run(command.profile, "profile") == 1
    assert "add up to 9 ms a batch, the whole model takes 10 ms" in capsys.readouterr().err
    assert out.read_text() == "old"


def test_processes_measure_side_by_side_and_are_gone() -> None:
    task = MeasuringTask(ModelSection("mlp", {"hidden": [8]}), 4, "momentum", 1, seconds=0.2)
    found = measuring.measure(task, copies=2)
    assert [len(values) for values in (found.forward, found.backward, found.step)] == [2, 2, 2]
    assert min(*found.forward, *found.backward, *found.step, found.whole, found.copied_bytes_per_s) > 0


def test_a_measurement_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeasurementError):
        measuring.measure(MeasuringTask(ModelSection("mlp", {"hidden": [0]}), 4, "sgd", 1, 0.1), copies=2)


def test_a_broker_of_which_nothing_is_known_ends_no_profile(
    tmp_path: Path, asked: list[tuple[MeasuringTask, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "wire_cost", lambda *_: WireCost(0.0, 0.0))
    result = profiled(tmp_path / "p.json")
    assert result.exception is None
    assert "max_mb_per_s" not in result.output
    assert (tmp_path / "p.json").exists()


def test_the_run_for_the_wire_has_one_hop_from_where_tensors_have_the_middle_size() -> None:
    sizes = profile_of_sizes(ModelSection("digits-cnn"), 64)
    outputs = [block.output_bytes for block in sizes.blocks]
    first, last = cuts_of_one_hop(sizes) or (0, 0)
    assert 0 < first < last == len(sizes.blocks) - 1
    assert outputs[first - 1] == sorted(outputs[:-2])[(len(outputs) - 2) // 2]
    assert cuts_of_one_hop(profile_of_sizes(ModelSection("mlp", {"hidden": [8, 8]}), 2)) == (1, 2)
    assert cuts_of_one_hop(profile_of_sizes(ModelSection("mlp", {"hidden": [8]}), 2)) is None


@pytest.mark.slow
def test_a_byte_costs_what_a_run_of_the_model_says(capfd: pytest.CaptureFixture[str]) -> None:
    section = ModelSection("mlp", {"hidden": [256, 256, 256]})
    cost = wire_cost(profile_of_sizes(section, 32), "mosquitto", MeasuringTask(section, 32, "sgd", 1, 1.0), 1, 0.02)
    assert cost is not None
    # A message of 32 KB costs tenths of a millisecond at either end, never the microseconds of its copies alone.
    assert 1 < cost.end < 1000
    assert 0 < cost.broker < 1000
    assert "a short run of mlp, cut at 1 and 3" in capfd.readouterr().err


def test_a_machine_is_named_by_its_board_or_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    board, cpu = tmp_path / "model", tmp_path / "cpuinfo"
    assert hardware_name(board, cpu) == "aarch64"
    cpu.write_text("processor\t: 0\nmodel name\t: Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz\n")
    assert hardware_name(board, cpu) == "intel-core-i5-8250u-cpu-aarch64"
    board.write_text("Raspberry Pi 4 Model B Rev 1.4\0")
    assert hardware_name(board, cpu) == "raspberry-pi-4-model-b-rev-1-4-aarch64"


def test_a_profile_without_wire_is_read_too(tmp_path: Path, asked: list[tuple[MeasuringTask, int]]) -> None:
    out = tmp_path / "p.json"
    assert profiled(out, "--no-wire", "--hardware", "big").exception is None
    assert facts.read(Profile, json.loads(out.read_text()), str(out)).hardware["big"].wire_cpu_s_per_gb == 0
