"""The options that describe a model outside a job: its arguments, and what one sample is."""

import json
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from mpsl.errors import UsageError
from mpsl.job import InputSection, SampleDtype
from mpsl.names import nearest

Function = TypeVar("Function", bound=Callable[..., Any])


def args_option() -> Callable[[Function], Function]:
    """Return the option --args; its value is a dict `args`."""
    return click.option(
        "--args", callback=_args, default="{}", metavar="JSON", help="Arguments of the model, as a JSON object."
    )


def input_option() -> Callable[[Function], Function]:
    """Return the option --input; its value is an InputSection `sample`, or None."""
    return click.option(
        "--input",
        "sample",
        callback=_sample,
        metavar="SHAPE[:DTYPE]",
        help="One sample of a function's model: 3x32x32, or 128:int64 for tokens.",
    )


def _args(context: click.Context, option: click.Parameter, text: str) -> dict[str, Any]:
    try:
        args = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--args {text!r}: is not JSON: {error}") from None
    if not isinstance(args, dict):
        raise UsageError(f"--args {text!r}: give an object, such as '{{\"num_classes\": 10}}'")
    return args


def _sample(context: click.Context, option: click.Parameter, text: str | None) -> InputSection | None:
    if text is None:
        return None
    shape, _, dtype = text.partition(":")
    dtypes = get_args(SampleDtype)
    if dtype and dtype not in dtypes:
        raise UsageError(f"--input {text}: unknown dtype {dtype!r}; {nearest(dtype, dtypes)}")
    try:
        sizes = tuple(int(size) for size in shape.split("x"))
        return InputSection(sizes, dtype or "float32")  # type: ignore[arg-type]
    except ValueError:
        raise UsageError(
            f"--input {text}: a shape is sizes with x between them, such as 3x32x32 or 128:int64"
        ) from None
