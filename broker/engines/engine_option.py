"""The option `--engine`, for every command that starts a broker of its own: one list of engines, one wording."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from broker.engines.engine import ENGINES

Command = TypeVar("Command", bound=Callable[..., Any])


def engine_option(default: str = "auto", help: str = "The broker that is started.") -> Callable[[Command], Command]:
    """Add `--engine`; the function gets `engine`."""
    return click.option("--engine", type=click.Choice(ENGINES), default=default, show_default=True, help=help)
