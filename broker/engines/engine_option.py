"""The option `--engine` of all commands that start their own broker."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from broker.engines.engine import ENGINES

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_option(default: str = "auto", help: str = "The broker to start.") -> Callable[[Command], Command]:
    """Add `--engine`; the function gets `engine`."""
    return click.option("--engine", type=click.Choice(ENGINES), default=default, show_default=True, help=help)
