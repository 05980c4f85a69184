"""No traceback reaches a user without -v: every command against bad paths, environments, functions and entry points."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from driving import PATIENCE_S

from broker import command as command_module
from broker.command import HELP, mpsl, run
from broker.command_errors import cause, is_verbose, report, words
from broker.hardware import cache_directory
from mpsl.errors import BrokerError, MeasurementError, MpslError, RunFailed, UsageError
from orchestrator.commands.fleet_template import FLEET_TEMPLATE
from orchestrator.commands.new import template

BAD_PATHS: dict[str, Callable[[Path], Path]] = {
    "missing": lambda folder: folder / "missing",
    "in-a-missing-folder": lambda folder: folder / "missing" / "file",
    "folder": lambda folder: _made(folder / "folder", None),
    "empty": lambda folder: _made(folder / "empty", b""),
    "binary": lambda folder: _made(folder / "binary", bytes(range(256))),
    "latin-1": lambda folder: _made(folder / "latin-1", "[run]\nname = 'Gerät'\n".encode("latin-1")),
    "other-text": lambda folder: _made(folder / "other", b"a = 1\n"),
    "below-a-file": lambda folder: _made(folder / "file", b"") / "below",
    "loop": lambda folder: _linked(folder / "loop", "loop"),
    "dangling": lambda folder: _linked(folder / "dangling", "/nowhere/at/all"),
    "long": lambda folder: folder / ("x" * 300),
    "not-utf-8": lambda folder: folder / "caf\udce9" / "file",
    "kernel": lambda folder: Path("/proc/self/mem"),
    "nowhere-to-write": lambda folder: Path("/proc/out"),
}
NAMED_BY_TEXT = ("data", "ca", "cert", "key")
"""Options that are paths, though click takes them for text."""


def _made(path: Path, content: bytes | None) -> Path:
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    return path


def _linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, those of `bench` too."""
    context = click.Context(mpsl)
    for name in mpsl.list_commands(context):
        found = mpsl.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from (
                (f"{name} {inner}", found.get_command(context, inner)) for inner in found.list_commands(context)
            )
        else:
            yield name, found


def path_parameters() -> list[tuple[str, str]]:
    """(command, parameter) of everything that takes a path."""
    return [
        (name, str(parameter.name))
        for name, found in commands()
        for parameter in found.params
        if isinstance(parameter.type, click.Path) or parameter.name in NAMED_BY_TEXT
    ]


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    """For each parameter a value that is right."""
    folder = tmp_path / "good"
    folder.mkdir()
    (folder / "job.toml").write_text(template(Path("job.toml")))
    (folder / "fleet.toml").write_text(FLEET_TEMPLATE)
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text('{"run": "r", "round": 1, "loss": 0.5, "seconds": 1.5}\n')
    (folder / "shards").mkdir()
    for number in range(1, 5):
        x = np.zeros((8, 1, 8, 8), np.float32)
        np.savez(folder / "shards" / f"dev-{number}.npz", x=x, y=np.arange(8))
    return {
        "job": str(folder / "job.toml"), "data": str(folder / "shards"), "out": str(folder / "out"),
        "profile_path": str(folder / "profile.json"), "fleet_path": str(folder / "fleet.toml"), "dataset": "digits",
        "folder": str(folder / "run"),
        "ids": "dev-1", "id": "dev-1", "role": "device", "request": str(folder / "request.pem"),
        "model": "mlp", "name": "mlp", "batch_size": "2", "cert": str(folder / "cert.pem"), "broker": "mqtts://127.0.0.1:1",
    }  # fmt: skip


def arguments(name: str, found: click.Command, good: dict[str, str], bad: dict[str, str]) -> list[str]:
    """A command line with what the command needs, and the bad values."""
    given = {str(p.name): good[str(p.name)] for p in found.params if p.required} | bad
    given |= {key: good[key] for key in ("broker", "cert") if key not in given and "key" in bad}
    given |= {"broker": good["broker"]} if {"ca", "cert"} & bad.keys() else {}
    line = name.split()
    for parameter in found.params:
        if parameter.name in given:
            value = given[str(parameter.name)]
            line += [value] if isinstance(parameter, click.Argument) else [parameter.opts[-1], value]
    return line


def nobody_there(*_: Any) -> None:
    raise BrokerError("stopped by the test")


def stopped_at_the_network(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> None:
    """A command stops where it would begin to wait for others, or to measure."""

    def stop(work: Coroutine[Any, Any, Any], **_: Any) -> None:
        work.close()
        raise BrokerError("stopped by the test")

    def no_measuring(*_: Any) -> None:
        raise MeasurementError("stopped by the test")

    if line[0] not in ("ls", "tap"):
        monkeypatch.setattr(asyncio, "run", stop)
    monkeypatch.setattr("orchestrator.commands.profile.measure", no_measuring)
    monkeypatch.setattr("benchmarks.this_machine.measure", no_measuring)


def assert_in_words(status: int, said: str) -> None:
    assert "Traceback" not in said, said
    assert "-v shows where" not in said, f"not foreseen: {said}"
    assert status in (0, 1, 2)
    assert status == 0 or "Error: " in said, said


def test_the_matrix_has_every_command_that_takes_a_path() -> None:
    found = path_parameters()
    some = {
        "new", "check", "train", "local", "demo", "device", "node", "plan", "simulate", "plot", "tap", "bench predict",
    }  # fmt: skip
    assert {name for name, _ in found} >= some
    assert len(found) > 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_PATHS)
@pytest.mark.parametrize(("name", "parameter"), path_parameters(), ids=lambda word: word.replace(" ", "-"))
def test_a_bad_path_is_an_error_in_words(
    name: str,
    parameter: str,
    kind: str,
    good: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    found = dict(commands())[name]
    line = arguments(name, found, good, {parameter: str(BAD_PATHS[kind](tmp_path))})
    monkeypatch.setattr(sys, "argv", ["mpsl", *line])
    stopped_at_the_network(monkeypatch, line)
    if parameter == "config":  # a sound one leads to a broker that is not there
        monkeypatch.setattr("broker.ls.watching", nobody_there)
        monkeypatch.setattr("broker.tap.watching", nobody_there)
    status = run(mpsl, "mpsl")
    assert_in_words(status, capfd.readouterr().err)


def without_a_home(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, Any]().__getitem__)
    assert cache_directory() is None


def without_a_working_directory(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()


ENVIRONMENTS: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "no-home": without_a_home,
    "no-working-directory": without_a_working_directory,
    "home-is-a-file": lambda patch, folder: patch.setenv("HOME", str(_made(folder / "home", b""))),
    "no-folder-for-temporary-files": lambda patch, folder: patch.setattr("tempfile.tempdir", str(folder / "missing")),
    "broker-is-no-url": lambda patch, folder: patch.setenv("MPSL_BROKER", "::::"),
    "no-password-file": lambda patch, folder: patch.setenv("MPSL_PASSWORD_FILE", str(folder / "missing")),
    "binary-password-file": lambda patch, folder: patch.setenv("MPSL_PASSWORD_FILE", "/proc/self/mem"),
}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("name", dict(commands()), ids=lambda word: word.replace(" ", "-"))
def test_a_bad_environment_is_an_error_in_words(
    name: str,
    environment: str,
    good: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = arguments(name, dict(commands())[name], good, {})
    monkeypatch.setattr(sys, "argv", ["mpsl", *line])
    # Undone before anything of pytest's own happens, which needs folders too.
    with monkeypatch.context() as bad:
        if name in ("ls", "tap"):
            bad.setattr(f"broker.{name}.watching", nobody_there)
        bad.chdir(tmp_path)  # what is written by default names is written there
        ENVIRONMENTS[environment](bad, tmp_path)
        stopped_at_the_network(bad, line)
        status = run(mpsl, "mpsl")
    said = capfd.readouterr().err
    assert_in_words(status, said)
    if name in ("local", "demo") and "password" in environment:
        assert "MPSL_PASSWORD_FILE" not in said, "a broker that is started here has no password"


# Functions, entry points, and what is still running when a command ends


def faulty(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """One more command, `faulty`, from another package."""
    entry = EntryPoint("faulty", value, command_module.COMMANDS_GROUP)

    def entry_points(group: str, name: str | None = None) -> EntryPoints:
        return EntryPoints([entry] if name in (None, "faulty") else [])

    monkeypatch.setattr(command_module, "entry_points", entry_points)
    monkeypatch.setattr(sys, "argv", ["mpsl", "faulty"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise OSError('libtorch.so: cannot open shared object file')", "cannot be loaded from faulty_command:main"),
        ("def main(:", "cannot be loaded from faulty_command:main: SyntaxError"),
        ("main = 3", "is not a command: faulty_command:main is int"),
        ("import no_such_library", "needs the library 'no_such_library'"),
        (
            "import click\n@click.command()\ndef main():\n    raise KeyError(1)",
            "Error: KeyError: 1; -v shows where",
        ),
        ("import click\n@click.command()\ndef main():\n    raise ValueError", "Error: ValueError; -v shows where"),
        ("import click\n@click.command()\ndef main():\n    return open('/no/file')", "/no/file: No such file"),
    ],
)
def test_an_entry_point_at_fault_is_an_error_in_words(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "faulty_command.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty_command", raising=False)
    faulty(monkeypatch, "faulty_command:main")
    assert run(mpsl, "mpsl") in (1, 2)
    said = capfd.readouterr().err
    assert says in said
    assert "Traceback" not in said
    monkeypatch.setattr(sys, "argv", ["mpsl", "-v", "faulty"])
    run(mpsl, "mpsl")
    if "click" in text:
        assert "Traceback" in capfd.readouterr().err, "-v shows where"


def test_what_nobody_handles_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def main() -> None:
        def fail() -> None:
            raise ValueError("in a thread")

        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
        try:
            raise ValueError("in a library")
        except ValueError:
            logging.getLogger("library").exception("it failed\nsecond line")

        async def forgetful() -> None:
            task = asyncio.create_task(asyncio.to_thread(int, "x"))
            await asyncio.wait([task])
            del task

        asyncio.run(forgetful())

    monkeypatch.setattr(sys, "argv", ["mpsl"])
    # pytest has a hook of its own for logs
    logging.getLogger().handlers, before = [], logging.getLogger().handlers
    try:
        assert run(main, "mpsl") == 0
    finally:
        logging.getLogger().handlers = before
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert said.splitlines()[:2] == [
        "warning: thread worker: ValueError: in a thread",
        "error: library: it failed: ValueError: in a library",
    ]
    assert len(said.splitlines()) == 3
    assert "Task exception was never retrieved: ValueError: invalid literal" in said


def test_of_a_group_the_error_of_ours_is_shown() -> None:
    ours = UsageError("unknown optimizer 'adamw'")
    group = ExceptionGroup("of tasks", [ExceptionGroup("inner", [ValueError("x"), ours]), RunFailed("later")])
    assert cause(group) is ours
    assert cause(BaseExceptionGroup("b", [KeyboardInterrupt()])).__class__ is KeyboardInterrupt
    other = ValueError("x")
    assert cause(ExceptionGroup("of tasks", [other])) is other


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RunFailed("the reason"), "the reason"),
        (MpslError(), "MpslError"),
        (KeyError("a"), "KeyError: 'a'"),
        (TimeoutError(), "TimeoutError"),
        (FileNotFoundError(2, "No such file or directory", "a.toml"), "a.toml: No such file or directory"),
        (OSError(18, "Cross-device link", "a", None, "b"), "a -> b: Cross-device link"),
        (OSError("just words"), "OSError: just words"),
        (OSError(24, "Too many open files"), "Too many open files: this process has as many files and connections"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "see `ulimit -u`"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_every_error_has_words(error: Exception, said: str) -> None:
    assert said in words(error)


def test_an_error_whose_own_text_fails_has_words() -> None:
    class Speechless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert words(Speechless()) == "Speechless"


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), OSError(12, "Cannot allocate"), MemoryError()])
def test_a_shortage_of_the_machine_is_foreseen(error: Exception, capfd: pytest.CaptureFixture[str]) -> None:
    assert report(error, verbose=False) == 1
    assert "-v shows where" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("line", "verbose"),
    [("train -v", True), ("-v train", True), ("train -vv", True), ("train --verbose", True), ("train", False),
     ("train --out -", False), ("train -- -v", False), ("train --out v", False)],
)  # fmt: skip
def test_verbose_is_asked_for_anywhere(line: str, verbose: bool) -> None:
    assert is_verbose(line.split()) is verbose


# The output


MODELS = [sys.executable, "-c", "from broker.command import main; main()", "models"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ['"$@" > /dev/full', '"$@" | head -c 1', '"$@" >&-', '"$@" 2>&-', '"$@" >&- 2>&-'])
def test_an_output_that_nobody_takes_leaves_no_traceback(shell: str) -> None:
    done = subprocess.run(
        ["bash", "-c", shell, "bash", *MODELS], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.slow
def test_a_terminal_without_the_alphabet_gets_escapes() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "koi8-r"}
    done = subprocess.run(MODELS, capture_output=True, text=True, timeout=PATIENCE_S, check=True, env=environment)
    assert r"samples 1\xd78\xd78" in done.stdout


# The help


def test_the_help_lists_every_command_with_one_line_in_groups() -> None:
    context = click.Context(mpsl, info_name="mpsl")
    listed = {name: line for lines in HELP.values() for name, line in lines.items()}
    assert sorted(listed) == mpsl.list_commands(context)
    text = mpsl.get_help(context)
    for title in HELP:
        assert f"\n{title}:\n" in text
    for name, line in listed.items():
        assert f"  {name} " in text
        assert line in text, "in one line"
        assert line.endswith(".")


def test_a_command_of_another_package_is_listed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty(monkeypatch, "no_such_module:main")
    assert "Others:\n  faulty" in mpsl.get_help(click.Context(mpsl, info_name="mpsl"))
