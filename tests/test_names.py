"""One name means one thing: no two classes share a name, nor two files; and the mutations find their texts."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mutants import mutants

ROOT = Path(__file__).parent.parent
PACKAGES = ("mpsl", "broker", "device_agent", "compute_node", "orchestrator", "benchmarks")
CLASSES: set[str] = set()
"""Names that several classes may have; each with its reason. There is none."""
FILES = {
    # Every package has these by the rules of Python.
    "__init__",
    "__main__",
    # Every role has one, and it is the same thing in each.
    "command",
    "performer",
    # The base of all machines, and the one machine that is a package.
    "machine",
}
"""File names that several packages may have."""
BY_SUBJECT = ("orchestrator/commands/", "benchmarks/", "mpsl/machines/tables/")
"""Folders whose files are named after a command, or after the machine whose table they hold."""


def files(root: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def classes_of(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def shared_classes(root: Path) -> dict[str, list[str]]:
    """Where each class name stands that several classes have; a leading underscore makes no other name."""
    found = defaultdict(list)
    for path in files(root):
        for node in classes_of(path):
            found[node.name.lstrip("_")].append(f"{path.relative_to(root)}:{node.lineno}")
    return {name: places for name, places in found.items() if len(places) > 1 and name not in CLASSES}


def shared_files(root: Path) -> dict[str, list[str]]:
    """The paths of each file name that several packages have."""
    found = defaultdict(list)
    for path in files(root):
        name = str(path.relative_to(root))
        if not name.startswith(BY_SUBJECT):
            found[path.stem].append(name)
    return {stem: names for stem, names in found.items() if len(names) > 1 and stem not in FILES}


def test_no_two_classes_share_a_name() -> None:
    assert shared_classes(ROOT) == {}


def test_no_two_files_share_a_name() -> None:
    assert shared_files(ROOT) == {}


def test_shared_names_are_found(tmp_path: Path) -> None:
    for name, text in {"mpsl/a.py": "class Link: ...", "broker/a.py": "def f():\n    class _Link: ..."}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
    assert shared_classes(tmp_path) == {"Link": ["broker/a.py:2", "mpsl/a.py:1"]}
    assert shared_files(tmp_path) == {"a": ["broker/a.py", "mpsl/a.py"]}


def test_every_mutation_finds_its_text() -> None:
    assert len(mutants(ROOT / "tests" / "mutants.toml")) >= 60, "raises where a text does not stand in its file once"
