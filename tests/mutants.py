"""Checks the tests: applies one mutation at a time to a copy of the tree and demands that its tests go red.

`make mutants` runs all of tests/mutants.toml; `make mutants ONLY=closing` those whose file or text has that word. A
mutation that no test notices is printed, and the exit status is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Mutant:
    """In `file` the text `before`, which stands there once, becomes `after`; `tests` must notice."""

    file: str
    before: str
    after: str
    tests: str

    def __str__(self) -> str:
        return f"{self.file}: {self.before!r} -> {self.after!r}"


def mutants(path: Path) -> list[Mutant]:
    """All mutations of the list; raises ValueError for one whose text does not stand in its file exactly once."""
    found = [Mutant(**entry) for entry in tomllib.loads(path.read_text())["mutant"]]
    for mutant in found:
        count = (ROOT / mutant.file).read_text().count(mutant.before)
        if count != 1:
            raise ValueError(f"{path.name}: {mutant}: the text stands {count} times in the file, not once")
    return found


def survives(mutant: Mutant, tree: Path) -> bool:
    """Whether the tests stay green with the mutation; the tree is as before afterwards."""
    path = tree / mutant.file
    original = path.read_text()
    path.write_text(original.replace(mutant.before, mutant.after))
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*command, *mutant.tests.split()], check=False, cwd=tree, capture_output=True, text=True,
            timeout=TIMEOUT_S, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MPSL_SEEDS": "0:20"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(original)
    # 4 and 5: wrong use of pytest, or no test at all. Any other failure is a notice, that of a killed run included.
    if run.returncode in (4, 5):
        raise RuntimeError(f"{mutant}: pytest could not run {mutant.tests}: {run.stdout[-500:]}{run.stderr[-500:]}")
    return run.returncode == 0


def main() -> int:
    """Run the list; 0 where every mutation is noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", default="", help="only mutations whose file or text has this word")
    only = parser.parse_args().only
    chosen = [mutant for mutant in mutants(ROOT / "tests" / "mutants.toml") if only in str(mutant)]
    survivors = []
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".venv", ".git", "runs", "__pycache__", ".*_cache"))
        for number, mutant in enumerate(chosen, start=1):
            lives = survives(mutant, tree)
            print(f"{number}/{len(chosen)} {'SURVIVED' if lives else 'noticed '} {mutant}", flush=True)
            if lives:
                survivors.append(mutant)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations are noticed")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
