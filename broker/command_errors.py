"""Reports the exception that ends a command: one line with the reason, and an exit status. No traceback.

It is the only place for that, whatever the cause: a file, a folder, the environment, a user's function or entry point.
With -v the traceback is shown too, for a report to the maintainers.
"""

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import TracebackType

import click

from mpsl.errors import MpslError, UsageError

FAILED, WRONG_USE = 1, 2
SHORTAGES = {
    errno.EMFILE: "this process has as many files and connections open as it may; see `ulimit -n`",
    errno.ENFILE: "the machine has as many files and connections open as it may",
    errno.EAGAIN: "no further process or thread may be started now; see `ulimit -u`",
    errno.ENOMEM: "there is not enough memory",
}
"""What the system is short of, and where its limit is set, by the number of the error."""


def is_verbose(arguments: Sequence[str]) -> bool:
    """Whether a command line has `-v`, `-vv` or `--verbose`."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(option == "--verbose" or (option[:1] == "-" and set(option[1:]) == {"v"}) for option in options)


def report(error: BaseException, verbose: bool) -> int:
    """Print on stderr why a command ended. Returns its exit status: 1 failed, 2 wrong use."""
    if verbose and (error.__cause__ or not isinstance(error, click.ClickException | click.Abort | KeyboardInterrupt)):
        traceback.print_exception(error)
    error = cause(error)
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FAILED
    print(f"Error: {words(error)}{'' if verbose or is_foreseen(error) else '; -v shows where'}", file=sys.stderr)
    return WRONG_USE if isinstance(error, UsageError) else FAILED


def cause(error: BaseException) -> BaseException:
    """Return the most informative exception of a group: the first error of the project, else the first of all."""
    leaves = list(_leaves(error))
    return next((leaf for leaf in leaves if isinstance(leaf, MpslError | click.ClickException)), leaves[0])


def words(error: BaseException) -> str:
    """Return what went wrong; never empty."""
    try:
        text = str(error)
    except Exception:  # an exception of someone else, whose own text fails
        text = ""
    if isinstance(error, MpslError) and text:
        return text
    if _is_about_the_working_directory(error):
        return "the working directory has been removed; change to another one"
    if isinstance(error, MemoryError):
        return "not enough memory" + (f": {text}" if text else "")
    if isinstance(error, OSError) and error.errno in SHORTAGES:
        return f"{error.strerror}: {SHORTAGES[error.errno]}"
    if isinstance(error, OSError) and error.strerror:
        places = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([" -> ".join(places), error.strerror]) if places else error.strerror
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_foreseen(error: BaseException) -> bool:
    """Whether the text of an error is enough to act on."""
    if isinstance(error, OSError) and error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, *SHORTAGES) or _is_about_the_working_directory(error)
    return isinstance(error, MpslError | OSError | MemoryError)


def _is_about_the_working_directory(error: BaseException) -> bool:
    """Whether a library asked for the working directory, which no longer exists."""
    if not isinstance(error, FileNotFoundError) or error.filename is not None:
        return False
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


@contextlib.contextmanager
def one_line_each(verbose: bool) -> Iterator[None]:
    """During the block, print each unhandled error (of threads, tasks, destructors) as one line on stderr."""
    if verbose:
        yield
        return
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    before = threading.excepthook, sys.unraisablehook
    logging.getLogger().addHandler(handler)
    threading.excepthook = lambda hook: _warn(hook.exc_value, f"thread {getattr(hook.thread, 'name', '')}")
    sys.unraisablehook = lambda hook: _warn(hook.exc_value, hook.err_msg or "while something was cleaned up")
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        threading.excepthook, sys.unraisablehook = before


def flush_output() -> int:
    """Flush stdout. Returns 1 if that fails (a closed pipe, a full disk)."""
    try:
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        pass  # the reader has closed the pipe
    except OSError as error:
        print(f"Error: standard output: {error.strerror or error}", file=sys.stderr)
    # Python flushes again at its end, and would report the same error again.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _warn(error: BaseException | None, where: str) -> None:
    if error is not None:
        print(f"warning: {where}: {words(error)}", file=sys.stderr)


class _OneLine(logging.Formatter):
    """Formats the first line of a record, with the text of its exception instead of the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        said = (record.getMessage().splitlines() or [""])[0]
        error: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None] | None
        error = record.exc_info
        shown = f": {words(error[1])}" if error and error[1] is not None else ""
        return f"{record.levelname.lower()}: {record.name}: {said}{shown}"
