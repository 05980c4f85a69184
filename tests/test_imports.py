"""The layers hold: who may import whom, what stays out of the kernel, how long a file is, what a device pulls in."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROLES = ("device_agent", "compute_node", "orchestrator")
PACKAGES = ("mpsl", "broker", *ROLES, "benchmarks")
MAY_IMPORT = {
    "mpsl": ("mpsl",),
    "broker": ("broker", "mpsl"),
    **{role: (role, "broker", "mpsl") for role in ROLES},
    # Benchmarks run whole systems, which the orchestrator starts; nothing of the system knows them.
    "benchmarks": ("benchmarks", "orchestrator", "broker", "mpsl"),
}
IMPURE = ("asyncio", "socket", "ssl", "selectors", "threading", "subprocess", "time", "random", "secrets", "concurrent")
"""What the kernel must not touch: sockets, clocks, chance and threads of its own."""
CLIENTS = ("aiomqtt", "paho")
EXCEPTIONS = {
    # torch's number of threads is kept by the thread that computes, so who makes that thread has to know torch
    "mpsl/nn/threads.py": ("concurrent",),
    # what a benchmark compares our transport with is a client without it
    "benchmarks/link_ends.py": CLIENTS,
}
"""What single files may import all the same, and why."""
VAGUE = ("utils", "util", "common", "helpers", "helper", "manager", "misc", "base", "core", "lib")
MAX_LINES = 400
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(path: Path) -> list[tuple[str, int]]:
    """Every module that a file imports anywhere in it, with its line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found.append((node.module or "", node.lineno))
    return found


def only_the_type(path: Path) -> bool:
    """Whether a file uses of `random` no more than the name of its generator, which it is given."""
    uses = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random"
    }
    return uses == {"random.Random"}


def offences(path: Path) -> list[str]:
    """The imports of a file that its place does not allow."""
    package, *rest = path.relative_to(ROOT).parts
    found = []
    for module, line in imports_of(path):
        top = module.split(".")[0]
        if top == "random" and package == "mpsl" and only_the_type(path):
            continue
        wrong = (
            (top in (*PACKAGES, "tests") and top not in MAY_IMPORT[package])
            or (package == "mpsl" and top in IMPURE)
            or (package == "mpsl" and top in ("torch", "torchvision") and rest[0] != "nn")
            or (package != "broker" and top in CLIENTS)
            or top in ("pickle", "shelve", "marshal", "dill", "joblib")
        )
        if wrong and top not in EXCEPTIONS.get(name_of(path), ()):
            found.append(f"{name_of(path)}:{line}: {module}")
    return found


def test_every_file_imports_only_what_its_place_allows() -> None:
    assert [offence for path in FILES for offence in offences(path)] == []


def test_the_walk_finds_offences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    cases = {
        "mpsl/a.py": (
            "import time",
            "from broker import driver",
            "def f():\n    import torch",
            "import asyncio.queues",
        ),
        "mpsl/nn/a.py": ("import random\nrandom.random()", "from random import random"),
        "broker/a.py": ("from device_agent.shard_source import Shard", "import pickle"),
        "orchestrator/a.py": ("from benchmarks.spread import spread", "from compute_node import storage"),
        "compute_node/a.py": ("from orchestrator import records", "import aiomqtt", "from paho.mqtt import client"),
    }
    for name, texts in cases.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for text in texts:
            path.write_text(text)
            assert len(offences(path)) == 1, (name, text)
    allowed = tmp_path / "mpsl/nn/a.py"
    allowed.write_text("import torch\nfrom mpsl import wire\nimport random\nchance: random.Random")
    assert offences(allowed) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short_and_say_what_they_are_for(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert path.stem not in VAGUE
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module docstring says why the file exists"


def phases_of(folder: Path) -> dict[str, Path]:
    """The files of a folder that define a phase, by module."""
    found = {}
    for path in folder.glob("*.py"):
        classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
        if any(ast.unparse(base) == "Phase" for node in classes for base in node.bases):
            found[f"mpsl.machines.orchestrator.{path.stem}"] = path
    return found


def reaching(folder: Path) -> list[str]:
    """The imports by which a phase reaches another one, or the machine."""
    phases = phases_of(folder)
    forbidden = {*phases, "mpsl.machines.orchestrator.machine", "mpsl.machines.orchestrator"}
    return [f"{path.name}: {name}" for path in phases.values() for name, _ in imports_of(path) if name in forbidden]


def test_a_phase_imports_neither_another_one_nor_the_machine(tmp_path: Path) -> None:
    folder = ROOT / "mpsl" / "machines" / "orchestrator"
    assert len(phases_of(folder)) > 8
    assert reaching(folder) == []
    (tmp_path / "ending.py").write_text("class Ending(Phase): ...")
    (tmp_path / "opening.py").write_text(
        "from mpsl.machines.orchestrator.ending import Ending\nclass Opening(Phase): ..."
    )
    assert reaching(tmp_path) == ["opening.py: mpsl.machines.orchestrator.ending"]


def test_torch_load_is_called_nowhere() -> None:
    """It unpickles; checkpoints are safetensors."""
    calls = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "eval", "exec", "pickle.loads")
    ]
    assert calls == []


def imported_by(statement: str) -> set[str]:
    """The modules that are loaded after a statement, in a process of its own."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return set(done.stdout.split())


def test_a_device_pulls_in_nothing_that_it_does_not_use() -> None:
    loaded = imported_by("import device_agent.command, device_agent.performer")
    assert "torch" in loaded
    unused = {"sklearn", "scipy", "rich", "safetensors", "iotcore", "torch._dynamo", "torch._inductor", "sympy"}
    assert unused & loaded == set()
    assert {module for module in loaded if module.split(".")[0] in ("compute_node", "orchestrator")} == set()


def test_the_command_alone_imports_no_role_and_no_torch() -> None:
    loaded = imported_by("import broker.command")
    tops = {module.split(".")[0] for module in loaded}
    assert tops & {*ROLES, "torch", "numpy", "aiomqtt", "paho"} == set()
    loaded = imported_by("import device_agent.command, compute_node.command")
    assert "torch" not in loaded, "--help and wrong options are answered before torch is there"


def test_the_kernel_stands_alone() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.parts[len(ROOT.parts)] == "mpsl" and path.name != "__init__.py"
    ]
    loaded = imported_by("import " + ", ".join(modules))
    assert {module for module in loaded if module.split(".")[0] in (*CLIENTS, "broker", *ROLES, "click")} == set()


def test_no_test_module_imports_another() -> None:
    """What two of them need is in a module of its own, so that each can be run and read alone."""
    for path in (ROOT / "tests").glob("*.py"):
        for module, line in imports_of(path):
            assert not module.startswith("test_"), f"{path.name}:{line} imports {module}"
