"""The folder of a run: it holds one run, and one process writes to it. This is checked before anything starts.

A folder that already holds a run is refused. With --force it is renamed, so no trained model is lost.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from mpsl.errors import UsageError
from mpsl.text_file import read_json

MANIFEST = "manifest.json"
"""The file from which another orchestrator continues the run."""
TRAINED_FILES = ("metrics.jsonl", "model.safetensors")
"""Any of them shows that something was trained."""
RUN_FILES = ("summary.json", "metrics.jsonl", "plan.json", "model.safetensors", "initial.safetensors")
"""A folder with any of these files holds a run."""

force_option = click.option(
    "--restart",
    "--force",
    "force",
    is_flag=True,
    help="Start again if --out holds a run; the old folder is kept as DIR.1, DIR.2, ...",
)


@contextlib.contextmanager
def run_folder(out: Path, force: bool = False, may_go_on: bool = False, inputs: Iterable[Path] = ()) -> Iterator[None]:
    """Make the folder and lock it against other processes while the block lasts.

    `inputs` are files and folders that the run reads: a folder that holds one of them is not renamed.
    Raises UsageError if it is not a folder, cannot be made or written to, is in use, or holds a run without `force`.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_locked(out))
            goes_on = may_go_on and not force and is_unfinished(out)
            if not goes_on and (found := [name for name in RUN_FILES if (out / name).exists()]):
                if not force:
                    raise UsageError(
                        f"--out {out}: holds {_shown(out, found)}; choose another folder, "
                        "or start again with --force, which renames this one"
                    )
                _set_aside(out, inputs)
                stack.enter_context(_locked(out))
            _check_writable(out)
        except OSError as error:
            raise UsageError(f"--out {out}: cannot be made or written to: {error.strerror or error}") from None
        yield


def is_unfinished(out: Path) -> bool:
    """Whether the folder holds a run that is not done: one with a manifest, or one in which nothing was trained yet."""
    if not (out / MANIFEST).exists() and any((out / name).exists() for name in TRAINED_FILES):
        return False
    if not (out / "summary.json").exists():
        return True
    summary = read_json(out / "summary.json")
    return not (isinstance(summary, dict) and summary.get("state") == "done")


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Make the folder if it is missing, and hold its lock until the block or the process ends."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; choose a folder")
    if out.is_symlink() and not out.exists():
        raise UsageError(f"--out {out}: is a link to {os.readlink(out)}, which does not exist; make that folder")
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"--out {out}: another process writes a run there; choose another folder") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)


def _set_aside(out: Path, inputs: Iterable[Path]) -> None:
    """Rename the folder to the first free of out.1, out.2 and so on."""
    for path in inputs:
        if path.resolve().is_relative_to(out.resolve()):
            raise UsageError(
                f"--out {out}: holds {path} too, which the run reads, so it cannot be renamed; name another folder"
            )
    here = Path(os.path.abspath(out))
    if here == Path.cwd() or here in Path.cwd().parents:
        raise UsageError(f"--out {out}: holds a run and cannot be renamed: it is the working directory; leave it")
    number = 1
    while os.path.lexists(aside := here.with_name(f"{here.name}.{number}")):
        number += 1
    try:
        here.rename(aside)
    except OSError as error:
        raise UsageError(
            f"--out {out}: holds a run and cannot be renamed to {aside.name} ({error.strerror}); "
            "name another folder, or one in it"
        ) from None


def _check_writable(out: Path) -> None:
    probe = out / ".writable"
    probe.write_bytes(b"")
    probe.unlink()


def _shown(out: Path, found: list[str]) -> str:
    """Describe the run in the folder."""
    with contextlib.suppress(UsageError):
        summary = read_json(out / "summary.json")
        if isinstance(summary, dict) and summary.get("run"):
            rounds = summary.get("rounds")
            count = len(rounds) if isinstance(rounds, list) else 0
            return f"run {summary['run']} ({summary.get('state')}, {count} rounds)"
    return f"a run ({', '.join(found)})"
