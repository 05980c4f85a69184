"""The figures of each device in one round as bars, one row per device: accuracy, loss, and its own seconds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mpsl.drawing import svg
from orchestrator.run_records import DeviceRecord

ROW, GAP, FIGURE, BETWEEN = 15, 6, 70, 24
"""Pixels: height of a bar, between rows, room for a figure behind its bar, between columns."""


@dataclass(frozen=True)
class Column:
    """One figure of all rows. `most` is the value of a full bar; None means the largest value."""

    title: str
    value: Callable[[DeviceRecord], float | None]
    shown: Callable[[float], str]
    most: float | None = None


COLUMNS = (
    Column("accuracy", lambda record: record.accuracy, lambda value: f"{value:.2%}", 1.0),
    Column("test loss", lambda record: record.test_loss, lambda value: f"{value:.4g}"),
    Column("training loss", lambda record: record.loss, lambda value: f"{value:.4g}"),
    Column("seconds, by its own clock", lambda record: record.seconds, svg.short_seconds),
)


def worst_first(records: Sequence[DeviceRecord]) -> list[DeviceRecord]:
    """Sort by the lowest accuracy or, without test data, the highest loss; devices that have neither come last."""

    def badness(record: DeviceRecord) -> tuple[bool, float, bool, float]:
        loss = record.loss if record.test_loss is None else record.test_loss
        accuracy = record.accuracy
        return (accuracy is None, accuracy or 0.0, loss is None, -(loss or 0.0))

    return sorted(records, key=badness)


def device_bars(
    records: Sequence[DeviceRecord], hues: Mapping[str, int], left: float, top: float, width: float
) -> tuple[list[str], float]:
    """Draw the rows in the order of `records`, names at the left of `left`. Returns the picture and its end."""
    each = (width - BETWEEN * (len(COLUMNS) - 1)) / len(COLUMNS)
    body: list[str] = []
    for number, column in enumerate(COLUMNS):
        x = left + number * (each + BETWEEN)
        body.append(svg.text(x, top + 10, column.title, "a"))
        body += _column(column, records, hues, x, top + 18, each - FIGURE)
    for number, record in enumerate(records):
        body.append(svg.text(left - 8, top + 18 + number * (ROW + GAP) + 12, record.device, anchor="end"))
    return body, top + 18 + len(records) * (ROW + GAP)


def _column(
    column: Column, records: Sequence[DeviceRecord], hues: Mapping[str, int], x: float, top: float, length: float
) -> Iterator[str]:
    values = [column.value(record) for record in records]
    most = column.most or max((value for value in values if value is not None), default=0.0)
    for number, (record, value) in enumerate(zip(records, values, strict=True)):
        y = top + number * (ROW + GAP)
        yield svg.bar(x, x + length, y, ROW, svg.FAINT)
        if value is None:
            yield svg.text(x + 4, y + 12, "–", "a")
            continue
        end = x + max(svg.MIN_PIXELS, length * (value / most if most else 0.0))
        yield svg.bar(x, end, y, ROW, svg.colour(hues[record.device], 56))
        yield svg.text(x + length + 6, y + 12, column.shown(value), "s")
