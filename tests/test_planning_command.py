"""`mpsl plan` from files to its output: the contract's JSON, the text, and errors that name file and key."""

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from planning_files import FLEET, run

from mpsl import facts
from mpsl.planning.fleet import Fleet, FleetBroker, FleetDevice, FleetHost, FleetJob, FleetNode
from mpsl.planning.plan_file import PlanFile
from mpsl.planning.report import MAX_KINDS
from mpsl.sim import plan_choice
from orchestrator.commands import plan as command
from orchestrator.commands.fleet_template import FLEET_TEMPLATE


def test_json_is_the_contracts_plan_on_the_last_line(files: tuple[Path, Path]) -> None:
    result = run(files, "--hops", "2", "--json")
    assert result.exit_code == 0
    shown = json.loads(result.stdout.splitlines()[-1])
    assert set(shown) == {
        "cuts", "seats", "devices", "admit", "predicted", "lower_bound_s", "optimal", "gap", "solver_ms",
    }  # fmt: skip
    assert set(shown["predicted"]) == {
        "batch_s", "round_s", "simulated_s", "bottleneck", "bottleneck_s", "node_memory_bytes", "cost", "rounding_loss",
    }  # fmt: skip
    assert set(shown["seats"][0]) == {"stage", "replica", "node", "blocks"}
    assert set(shown["predicted"]["bottleneck"]) == {"kind", "id"}
    assert shown["predicted"]["simulated_s"] == pytest.approx(shown["predicted"]["round_s"], rel=0.3)
    assert len(shown["cuts"]) == 3
    assert shown["devices"]["pi-4"] == [0, 0]
    assert shown["optimal"] is True
    assert shown["solver_ms"] > 0
    again = facts.read(PlanFile, shown, "PLAN.json")
    assert json.loads(json.dumps(facts.plain(again))) == shown


def test_a_round_of_too_many_messages_is_left_to_simulate(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_choice, "MAX_MESSAGES", 10)
    predicted = json.loads(run(files, "--json").stdout.splitlines()[-1])["predicted"]
    assert predicted["simulated_s"] is None


def test_the_text_shows_the_chain_and_the_comparison(files: tuple[Path, Path]) -> None:
    result = run(files, "--compare")
    assert result.exit_code == 0
    for expected in (
        "4 devices",
        "blocks [0, 1)",
        "stage 1",
        "server-1",
        "bottleneck",
        "from its optimum at most",
        "simulator   best of 4 plans simulated; the formula's best is cuts",
        "best of hops",
    ):
        assert expected in result.stdout


def test_the_text_says_what_is_proven(files: tuple[Path, Path]) -> None:
    assert re.search("formula +optimal, proven", run(files, "--hops", "2").stdout)


def test_the_text_shows_stragglers_first_where_devices_differ(files: tuple[Path, Path]) -> None:
    assert "slowest first" not in run(files).stdout, "all are alike"
    slow = (
        FLEET.split("[[nodes]]")[0].replace('"pi"\nhardware', '"slow"\nhardware').replace("up_mbps = 20", "up_mbps = 4")
    )
    files[1].write_text(FLEET.replace("[[nodes]]", f"{slow}\n[[nodes]]", 1))
    shown = run(files).stdout.splitlines()
    at = shown.index("devices, the slowest first: their round if they were alone")
    assert shown[at + 1].startswith("  slow-1 and 3 alike  ████████████████████  ")
    assert re.match(r"  pi-1 and 3 alike    █+░+  [\d.]+ s", shown[at + 2])
    assert shown[at + 3] == ""


def test_many_kinds_of_devices_are_counted_behind_the_slowest(files: tuple[Path, Path]) -> None:
    table = FLEET.split("[[nodes]]")[0]
    tables = [
        table.replace('id = "pi"', f'id = "d{number}"').replace("= 100", f"= {number * 320}").replace("= 4", "= 2")
        for number in range(1, MAX_KINDS + 4)
    ]
    files[1].write_text("\n".join([*tables, f"[[nodes]]{FLEET.split('[[nodes]]')[1]}"]))
    shown = run(files).stdout
    assert f"  d{MAX_KINDS + 3}-1 and 1 alike  ████████████████████  " in shown
    assert "  and 6 faster devices\n" in shown


def test_the_comparison_is_in_the_json_too(files: tuple[Path, Path]) -> None:
    rows = json.loads(run(files, "--compare", "--json").stdout.splitlines()[-1])["compare"]
    assert [row["shape"] for row in rows][:2] == ["1", "3"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_gib = 2", "memory_gib = 0.003", "over its 3221225"),
        (
            'id = "server"\nhardware = "server"\ncount = 3',
            'id = "broker"\nhardware = "server"',
            "the broker's own name",
        ),
        ("samples = 100", f"samples = {'9' * 5000}", "f.toml: "),
        ('hardware = "server"', 'hardware = "sever"', "no times for hardware 'sever'; did you mean 'server'"),
        ("link_mbps = 1000\ncost", "cost", "f.toml: nodes[0]: node 'server': link_mbps missing"),
        ("first_cut", "frist_cut", "f.toml: job: unknown key 'frist_cut'; did you mean 'first_cut'"),
        ("[broker]", "[broker", "f.toml: "),
    ],
)
def test_errors_name_what_cannot_be_met(files: tuple[Path, Path], old: str, new: str, message: str) -> None:
    text = files[1].read_text()
    assert old in text
    files[1].write_text(text.replace(old, new))
    result = run(files)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("hops", "message"),
    [
        ("4", "4 hops need 4 nodes"),
        ("many", "a number of hops, or auto"),
        ("9" * 5000, "a number of hops"),
        ("٣", "a number of hops"),
    ],
)
def test_hops_that_cannot_be_are_refused(files: tuple[Path, Path], hops: str, message: str) -> None:
    result = run(files, "--hops", hops)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": ' + "9" * 5000 + "}", "{", "\udcff"])
def test_a_file_that_cannot_be_read_is_named(files: tuple[Path, Path], text: str) -> None:
    files[0].write_bytes(text.encode(errors="surrogateescape"))
    result = run(files)
    assert result.exit_code == 2
    assert "p.json: " in result.stderr


def test_a_missing_file_is_named(files: tuple[Path, Path]) -> None:
    files[0].unlink()
    result = run(files)
    assert result.exit_code == 2
    assert "p.json: cannot be read" in result.stderr


def test_a_model_that_takes_no_time_is_shown_as_idle(files: tuple[Path, Path]) -> None:
    profile = json.loads(files[0].read_text())
    nothing = {"forward_ms": [0.0] * 5, "backward_ms": [0.0] * 5}
    profile["hardware"] = {"pi": nothing, "server": nothing}
    profile["input_bytes"] = 0
    profile["blocks"] = [{**block, "parameter_bytes": 0, "output_bytes": 0} for block in profile["blocks"]]
    files[0].write_text(json.dumps(profile))
    files[1].write_text(FLEET.replace("latency_ms = 5", "latency_ms = 0").replace("latency_ms = 0.5", "latency_ms = 0"))
    result = run(files)
    assert result.exit_code == 0, result.output
    assert " 0% busy" in result.output


def test_a_new_fleet_names_every_key_with_its_default(tmp_path: Path) -> None:
    text = FLEET_TEMPLATE
    given = tomllib.loads(re.sub(r"(?m)^# (\w+ = |\[\[)", r"\1", text))
    active = tomllib.loads(text)
    tables: dict[str, type] = {
        "devices": FleetDevice, "nodes": FleetNode, "broker": FleetBroker, "hosts": FleetHost, "job": FleetJob,
    }  # fmt: skip
    assert given.keys() == tables.keys()
    for table, kind in tables.items():
        keys, shown = given[table], active.get(table, {})
        keys, shown = (each[0] if isinstance(each, list) else each for each in (keys, shown))
        fields = {field.name: field for field in dataclasses.fields(kind)}
        assert keys.keys() == fields.keys()
        if table == "job":
            assert {key: value for key, value in shown.items() if value != fields[key].default} == {}
    facts.read(Fleet, active, "new")
    facts.read(Fleet, given, "new, with every example")


def test_a_new_fleet_can_be_planned_and_is_never_written_over(files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    result = CliRunner().invoke(command.plan, ["--new", str(path)])
    assert result.exit_code == 0
    assert "ready to be changed" in result.stdout
    assert run((files[0], path)).exit_code == 0
    again = CliRunner().invoke(command.plan, ["--new", str(path)])
    assert again.exit_code == 2
    assert "already exists" in again.stderr
    assert path.read_text() == FLEET_TEMPLATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing option '--profile'"),
        (("--profile", "p.json"), "Missing option '--fleet'"),
        (("--new", "f.toml", "--profile", "p.json"), "--new only writes a fleet file"),
    ],
)
def test_what_is_missing_or_too_much_is_named(options: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(command.plan, options)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("key", "wrong", "known"),
    [
        ("optimizer", "lion", ("sgd", "momentum", "adam")),
        ("activations", "fp61", ("fp32", "fp16", "bf16", "int8", "int4")),
        ("gradients", "none", ("fp32", "fp16", "bf16", "int8", "int4")),
    ],
)
def test_a_wrong_value_is_refused_with_the_allowed_ones(
    files: tuple[Path, Path], key: str, wrong: str, known: tuple[str, ...]
) -> None:
    files[1].write_text(FLEET.replace("first_cut = 1", f'{key} = "{wrong}"'))
    result = run(files)
    assert result.exit_code == 2
    assert repr(wrong) in result.stderr
    listed = result.stderr.split("known: ")[1]
    assert all(name in listed for name in known)
    for value in known:
        files[1].write_text(FLEET.replace("first_cut = 1", f'{key} = "{value}"'))
        assert run(files).exit_code == 0
