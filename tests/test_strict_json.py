"""Everything that is written as JSON can be read by a strict reader."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsl import strict_json
from mpsl.machines.machine import as_json
from orchestrator.records import Records

ROOT = Path(__file__).parent.parent
PACKAGES = ("mpsl", "broker", "device_agent", "compute_node", "orchestrator", "benchmarks")
ALLOWED = {
    # the writer itself
    "mpsl/strict_json.py",
    # quotes the value of one log line, which is a string
    "broker/log.py",
}


def strictly(text: str | bytes) -> Any:
    """As a reader does that knows no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


CONTENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.floats() | st.integers(), inner)
    ),
    max_leaves=20,
)


@given(CONTENT, st.sampled_from([None, 1, 2]), st.booleans())
def test_whatever_is_written_is_strict(content: Any, indent: int | None, compact: bool) -> None:
    strictly(strict_json.dumps(content, indent=indent, compact=compact))


def test_numbers_that_are_not_finite_become_null_and_nothing_else_changes() -> None:
    content = {"a": [1, 2.5, math.nan, (math.inf, "NaN")], "b": {"c": -math.inf, "d": None, "e": True}}
    assert strictly(strict_json.dumps(content)) == {
        "a": [1, 2.5, None, [None, "NaN"]],
        "b": {"c": None, "d": None, "e": True},
    }
    assert strict_json.dumps({"b": 1, "a": [1, 2]}, compact=True) == '{"b":1,"a":[1,2]}'
    assert strict_json.dumps({"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'


def test_topics_and_the_files_of_a_run_are_strict(tmp_path: Path) -> None:
    diverged = {"round": 1, "loss": math.nan, "rounds": [{"loss": math.inf}]}
    assert strictly(as_json(diverged)) == {"round": 1, "loss": None, "rounds": [{"loss": None}]}
    records = Records(tmp_path)
    records.append_round(diverged)
    records.save_summary(diverged)
    records.save_plan(diverged)
    assert strictly((tmp_path / "metrics.jsonl").read_text())["loss"] is None
    for name in ("summary.json", "plan.json"):
        assert strictly((tmp_path / name).read_text())["loss"] is None


def writers_in(text: str) -> list[int]:
    """The lines that call json.dump or json.dumps, under whatever name json was imported."""
    tree = ast.parse(text)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "json"
    }
    found = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in ("dump", "dumps")
        and isinstance(node.value, ast.Name)
        and node.value.id in names
    ]
    return found + [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "json"
        and {alias.name for alias in node.names} & {"dump", "dumps", "JSONEncoder"}
    ]


@pytest.mark.parametrize("text", ["import json\njson.dumps(1)", "import json as j\nj.dump", "from json import dumps"])
def test_a_second_writer_is_found(text: str) -> None:
    assert writers_in(text)


def test_nothing_else_writes_json() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    found = [
        f"{name}:{line}"
        for path in files
        if (name := str(path.relative_to(ROOT))) not in ALLOWED
        for line in writers_in(path.read_text())
    ]
    assert len(files) > 100
    assert found == [], "use mpsl.strict_json.dumps"
