"""`mpsl plot`: draws a finished or running run from the records in its folder. Writes one picture and nothing else."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from mpsl.drawing.svg import short_seconds
from mpsl.errors import UsageError
from mpsl.planning.report import count
from mpsl.whole_file import write_whole
from orchestrator.plots.device_bars import worst_first
from orchestrator.plots.measured_round import slowest_first
from orchestrator.plots.run_picture import run_picture
from orchestrator.run_folder import RUN_FILES
from orchestrator.run_records import DEVICES, DeviceRecord, RunRecords, read_records

PICTURE = "plot.svg"
MAX_NAMED = 4
"""The maximum number of devices in a line of text."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="OUT_DIR")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="OUT.svg", help=f"[default: OUT_DIR/{PICTURE}]"
)
@click.option("--round", "number", type=int, metavar="N", help="The round to show in detail.  [default: the last one]")
def plot(*, folder: Path, out: Path | None, number: int | None) -> None:
    """Draw the run whose records are in OUT_DIR: loss and accuracy over the rounds, and one round device by device."""
    path = out or folder / PICTURE
    if path.name in (*RUN_FILES, DEVICES):
        raise click.UsageError(f"{path}: is the name of a record of a run; choose another file")
    try:
        records = read_records(folder)
        chosen = _chosen(records, number)
    except UsageError as error:
        raise click.UsageError(str(error)) from None
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"{path}: there is no directory {path.parent}")
    write_whole(path, run_picture(records, chosen))
    for line in [f"{path}: {count(len(records.rounds), 'round')} of {records.run}", *told(records, chosen)]:
        click.echo(line)


def _chosen(records: RunRecords, number: int | None) -> int:
    numbers = [record.round for record in records.rounds]
    if number is None:
        return numbers[-1]
    if number not in numbers:
        known = f"round {numbers[0]}" if len(numbers) == 1 else f"rounds {numbers[0]} to {numbers[-1]}"
        raise UsageError(f"--round {number}: is not recorded; {records.run} has {known}")
    return number


def told(records: RunRecords, number: int) -> Iterator[str]:
    """Describe the round in words: the slowest and the worst devices, and those left out."""
    round = next(record for record in records.rounds if record.round == number)
    devices = records.of_round(number)
    yield f"{f'round {number}':<12}{short_seconds(round.seconds)}"
    slow = [record for record in slowest_first(devices) if record.accepted_s is not None and record.left_out is None]
    if slow:
        yield f"{'slowest':<12}{_named(slow, lambda record: short_seconds(record.needed_s or 0.0))}"
    tested = [record for record in worst_first(devices) if record.accuracy is not None]
    if tested:
        yield f"{'worst':<12}{_named(tested, lambda record: f'{record.accuracy:.2%}')}"
    if out := [record for record in devices if record.left_out is not None]:
        yield f"{'left out':<12}{_named(out, lambda record: f'({record.left_out})')}"


def _named(records: Sequence[DeviceRecord], figure: Callable[[DeviceRecord], str]) -> str:
    shown = ", ".join(f"{record.device} {figure(record)}" for record in records[:MAX_NAMED])
    return shown + (f" and {len(records) - MAX_NAMED} more" if len(records) > MAX_NAMED else "")
