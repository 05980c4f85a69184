"""What the documents say is so: commands and options exist, files and functions exist, constants have their values."""

import ast
import configparser
import importlib
import json
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import click
import pytest
from msgspec.structs import fields

from broker.command import mpsl
from mpsl import PROTOCOL, facts
from mpsl.machines.tables.run import OrchestratorState
from mpsl.messages import KINDS
from mpsl.plan import Plan
from mpsl.topics import Topics

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
IDS = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
UNITS = {"": 1, "s": 1, "KiB": 2**10, "MiB": 2**20}
ROOTS = ("mpsl/", "broker/", "device_agent/", "compute_node/", "orchestrator/", "tests/", "docs/", "systemd/")


def code_in(text: str) -> list[str]:
    """Everything in code: indented lines, and what stands between backticks."""
    indented = re.findall(r"(?m)^    (.+)$", text)
    return indented + re.findall(r"`([^`\n]+)`", text)


def commands_in(text: str) -> list[list[str]]:
    """Every `mpsl …` with its arguments; a comment ends it."""
    found = []
    for code in code_in(text):
        # Units begin with the path of the program, documents with a prompt or nothing.
        match = re.match(r"(?:\$ |/opt/mpsl/bin/)?mpsl +([a-z].*|--.*)", code)
        if match:
            found.append(shlex.split(match[1], comments=True))
    return found


def assert_command_exists(words: list[str]) -> None:
    context = click.Context(mpsl)
    if words[0].startswith("-"):
        assert words[0] in ("--help", "--version"), words
        return
    command = mpsl.get_command(context, words[0])
    assert command is not None
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]}
    for word in words[1:]:
        option = word.split("=")[0]
        if isinstance(command, click.Group):
            return
        if option.startswith("-") and option != "--help":
            assert option in known, f"mpsl {words[0]} has no {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_commands_and_their_options_exist(document: Path) -> None:
    for words in commands_in(document.read_text()):
        assert_command_exists(words)


def test_a_wrong_command_would_be_found() -> None:
    (words,) = commands_in("    mpsl train job.toml --out DIR --speed high  # faster")
    assert words == ["train", "job.toml", "--out", "DIR", "--speed", "high"]
    with pytest.raises(AssertionError, match="no --speed"):
        assert_command_exists(words)
    with pytest.raises(click.UsageError):
        assert_command_exists(["trian"])


def test_the_readme_shows_every_way_to_begin() -> None:
    named = {words[0] for words in commands_in((ROOT / "README.md").read_text())}
    assert named >= {"broker", "node", "device", "train", "local", "demo", "data", "new", "check", "ls", "tap"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_files_and_what_is_in_them_exist(document: Path) -> None:
    text = document.read_text()
    for code in re.findall(r"`([^`\n]+)`", text):
        path, _, name = code.partition(":")
        if path.startswith(ROOTS) and re.fullmatch(r"[\w./-]+", path) and not re.fullmatch(r"mpsl/v\d.*", path):
            assert (ROOT / path).exists(), f"{document.name}: {path}"
            if name:
                assert defines(ROOT / path, name), f"{document.name}: {code}"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def defines(path: Path, name: str) -> bool:
    """Whether a module defines `function`, `Class` or `Class.method`."""
    body: list[ast.stmt] = ast.parse(path.read_text()).body
    for part in name.split("."):
        found = [
            n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and n.name == part
        ]
        if not found:
            return False
        body = found[0].body
    return True


def test_a_wrong_name_would_be_found() -> None:
    path = ROOT / "mpsl" / "link" / "sender.py"
    assert defines(path, "Sender.fill")
    assert not defines(path, "Sender.fulfil")
    assert not defines(path, "fill")


def test_the_index_of_decisions_has_every_page_with_its_title_and_status() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text()
    pages = dict(re.findall(r"(?m)^\[(\d+)\]: (\S+)$", index))
    assert sorted(pages.values()) == sorted(path.name for path in (ROOT / "docs" / "adr").glob("0*.md"))
    for number, name in pages.items():
        heading, status = (ROOT / "docs" / "adr" / name).read_text().split("\n\n")[:2]
        said = re.match(r"Status: (accepted|(?:partly )?superseded by \[decision\s(\d+)\]\((\S+)\))\.", status)
        assert said is not None, f"{name}: no status"
        assert said[2] is None or pages[said[2]] == said[3], f"{name}: no decision {said[2]}"
        short = re.sub(r"\[decision\s(\d+)\]\(\S+\)", r"[\1]", said[1])
        assert f"| [{number}] | {heading.removeprefix(f'# {number}. ')} | {short} |" in index, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_constants_have_the_values_that_are_said(document: Path) -> None:
    rows = re.findall(r"(?m)^\| `([\w.]+)\.([A-Z_]+)` \| ([\d.]+) ?(\w*) \|", document.read_text())
    for module, name, number, unit in rows:
        assert getattr(importlib.import_module(module), name) == float(number) * UNITS[unit], f"{module}.{name}"
    if document.name in ("wire-format.md", "failure-model.md"):
        assert len(rows) > 10


def test_every_kind_of_message_is_described() -> None:
    text = (ROOT / "docs" / "wire-format.md").read_text()
    rows = {
        kind: (lane, names.split(", "))
        for kind, lane, names in re.findall(r"(?m)^\| `([\w-]+)` \| (\w+) \| ([\w, ]+) \|", text)
    }
    assert rows == {kind: (made.lane, [field.name for field in fields(made)]) for kind, made in KINDS.items()}


def test_the_topics_parse_and_their_examples_read() -> None:
    text = (ROOT / "docs" / "topics.md").read_text()
    topics = Topics("main")
    examples = re.findall(r"(?m)^    (mpsl/v1/\S+)\n((?:    [{ ].*\n)+)", text)
    leaves = {topic.rsplit("/", 1)[1] for topic, _ in examples}
    assert leaves == {"status", "info", "tele", "cmd", "plan", "state", "metrics"}
    for topic, payload in examples:
        content = json.loads(textwrap.dedent(payload))
        if topic.endswith("plan"):
            assert facts.read(Plan, content, topic).hops == 2
    for topic in re.findall(r"(?m)^    (mpsl/v1/main/\S+)", text):
        assert topics.parse(topic) is not None, topic
    for state in OrchestratorState:
        assert f"`{state.value}`" in text


def test_the_version_of_the_protocol_is_the_present_one() -> None:
    topics, wire = ((ROOT / "docs" / name).read_text() for name in ("topics.md", "wire-format.md"))
    assert set(re.findall(r'"protocol": ?(\d+)', topics)) == {str(PROTOCOL)}
    assert re.findall(r"`mpsl.PROTOCOL`, now (\d+)\.", wire) == [str(PROTOCOL)]


@pytest.mark.parametrize("role", ["device", "node"])
def test_units_start_what_exists_and_are_sound(role: str, tmp_path: Path) -> None:
    text = (ROOT / "systemd" / f"mpsl-{role}.service").read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    (words,) = commands_in(f"    {service['ExecStart']}")
    assert words[0] == role
    assert words[-1] == "$MPSL_OPTIONS"
    assert_command_exists(words)
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    hardened = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes", "ProtectHome": "yes"}
    assert {key: service[key] for key in hardened} == hardened
    assert f"/etc/mpsl/{role}.env" in (ROOT / "docs" / "raspberry-pi.md").read_text()
    if shutil.which("systemd-analyze"):
        copy = tmp_path / f"mpsl-{role}.service"
        copy.write_text(text.replace("/opt/mpsl/bin/mpsl", "/bin/true"))
        done = subprocess.run(
            ["systemd-analyze", "verify", copy], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_licence_is_the_one_that_is_named() -> None:
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()
