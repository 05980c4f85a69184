"""The command `mpsl`: finds its sub-commands through entry points and imports only the requested one."""

import contextlib
import io
import os
import sys
from importlib.metadata import entry_points

import click

from broker.command_errors import FAILED, flush_output, is_verbose, one_line_each, report
from mpsl import VERSION
from mpsl.names import nearest

COMMANDS_GROUP = "mpsl.commands"
HELP = {
    "Describe a job": {
        "new": "Write a commented job to begin with.",
        "models": "List the models, their arguments and their blocks.",
        "data": "Split a data set into one shard for each device.",
        "check": "Check whether a job can run, and show who computes what.",
    },
    "Train": {
        "train": "Run a job on the devices and nodes that are online.",
        "local": "Run a job with everything on this machine.",
        "demo": "Train on real data without any preparation.",
    },
    "Take part": {
        "device": "Take part in runs with the data of this machine.",
        "node": "Compute a part of the model for the devices of a run.",
        "broker": "Run an MQTT broker in the foreground.",
    },
    "Set up a fleet": {
        "fleet": "Make the identities of devices, nodes and the others.",
        "doctor": "Find what is wrong with a set-up, and what helps.",
    },
    "Watch": {
        "ls": "List devices, nodes and runs.",
        "tap": "Show every message, one line each.",
        "plot": "Draw a run from the records in its folder.",
    },
    "Predict and measure": {
        "profile": "Measure a model on this machine, block by block.",
        "plan": "Find where to cut and which node takes which part.",
        "simulate": "Run the rounds of a plan in virtual time.",
        "bench": "Measure this machine with the project's benchmarks.",
    },
}
"""One line per command. It is here because the help must not import the commands, which would load torch."""
OTHERS = "Others"


class Commands(click.Group):
    """Sub-commands by entry point."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return all names, sorted."""
        return sorted(entry_points(group=COMMANDS_GROUP).names)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return the command called `name`. The error for a missing library names the extra that installs it."""
        found = entry_points(group=COMMANDS_GROUP, name=name)
        if not found:
            raise click.UsageError(f"unknown command {name!r}; {nearest(name, self.list_commands(context))}")
        entry = next(iter(found))
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`mpsl {name}` needs the library {error.name!r}, which is not installed: "
                "pip install '.[device]', '.[node]', '.[orchestrator]' or '.[demo]' installs the libraries of a role"
            ) from error
        except Exception as error:
            raise click.ClickException(
                f"`mpsl {name}` cannot be loaded from {entry.value}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(command, click.Command):
            raise click.ClickException(f"`mpsl {name}` is not a command: {entry.value} is {type(command).__name__}")
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in groups, one line each."""
        installed = self.list_commands(context)
        others = set(installed) - {name for lines in HELP.values() for name in lines}
        for title, lines in {**HELP, OTHERS: dict.fromkeys(sorted(others), "")}.items():
            rows = [(name, line) for name, line in lines.items() if name in installed]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_spacing=4)


@click.group(cls=Commands, epilog="`mpsl COMMAND --help` shows the options of a command.")
@click.version_option(VERSION, prog_name="mpsl")
@click.option("-v", "--verbose", count=True, expose_value=False, help="Show the traceback of an error, too.")
def mpsl() -> None:
    """Multihop parallel split learning over MQTT."""


def run(command: click.Command, name: str) -> int:
    """Run a command and return the exit status: 0 done, 1 failed, 2 wrong use; reasons go to stderr."""
    # A stream that the parent has closed is None.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Characters that this terminal cannot encode must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError):
                stream.reconfigure(errors="backslashreplace")
    verbose = is_verbose(sys.argv[1:])
    with one_line_each(verbose):
        try:
            status = command.main(prog_name=name, standalone_mode=False)
        except (Exception, KeyboardInterrupt) as error:
            if flush_output() and isinstance(error, OSError) and error.filename is None:
                return FAILED  # the output failed, and the error has been printed
            return report(error, verbose)
        return flush_output() or (status if isinstance(status, int) else 0)


def main() -> None:
    """Entry point of `mpsl`."""
    sys.exit(run(mpsl, "mpsl"))
