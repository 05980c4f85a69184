"""`mpsl bench NAME`: finds the benchmarks by their files and imports only the requested one."""

import importlib
import pkgutil

import click

from mpsl.errors import UsageError
from mpsl.names import nearest

PACKAGE = "benchmarks"


class Benchmarks(click.Group):
    """Sub-commands by file."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return all names, sorted."""
        modules = pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__)
        return sorted(
            module.name for module in modules if hasattr(importlib.import_module(f"{PACKAGE}.{module.name}"), "command")
        )

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the benchmark called `name`."""
        if name not in self.list_commands(context):
            raise UsageError(f"unknown benchmark {name!r}; {nearest(name, self.list_commands(context))}")
        command = importlib.import_module(f"{PACKAGE}.{name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Benchmarks)
def bench() -> None:
    """Measure this machine. docs/benchmarks.md has the figures measured so far."""
