"""The command `mpsl`: finds its sub-commands through entry points and imports only the one asked for."""

import sys
from importlib.metadata import entry_points

import click

from mpsl import VERSION
from mpsl.errors import MpslError, UsageError
from mpsl.names import nearest

GROUP = "mpsl.commands"


class Commands(click.Group):
    """Sub-commands by entry point."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted(entry_points(group=GROUP).names)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command called `name`; a missing library is named with the extra that brings it."""
        found = entry_points(group=GROUP, name=name)
        if not found:
            raise click.UsageError(f"unknown command {name!r}; {nearest(name, self.list_commands(context))}")
        try:
            command = next(iter(found)).load()
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`mpsl {name}` needs the library {error.name!r}, which is not installed: "
                "pip install '.[device]', '.[node]', '.[orchestrator]' or '.[demo]' brings what a role needs"
            ) from None
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing any of them: their help would pull in torch."""
        with formatter.section("Commands"):
            formatter.write_text(", ".join(self.list_commands(context)))
            formatter.write_text("`mpsl COMMAND --help` says more.")


@click.group(cls=Commands)
@click.version_option(VERSION, prog_name="mpsl")
def mpsl() -> None:
    """Multihop parallel split learning over MQTT."""


def run(command: click.Command, name: str) -> int:
    """Run a command and return the exit status: 0 done, 1 failed, 2 wrong use; reasons go to stderr."""
    try:
        status = command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return 1
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except MpslError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0


def main() -> None:
    """Entry point of `mpsl`."""
    sys.exit(run(mpsl, "mpsl"))
