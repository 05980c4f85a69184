"""A measured round, one row per device: when it waited, was in its round, and was accepted or left out.

All times are by the orchestrator's clock, from the round's opening. Only recorded facts are drawn.
"""

from collections.abc import Iterator, Mapping, Sequence

from mpsl.drawing import svg
from orchestrator.run_records import DeviceRecord, RoundRecord

ROW, GAP = 18, 6
"""Pixels: height of a bar, between rows."""
LETTER_WIDTH = 5.8
"""Approximate width of a letter of a reason, in pixels."""
IN_ROUND, HELD = 56, 82
"""Lightness of a bar, in per cent."""
WAITING, LEFT_OUT, AFTER = "#dcdfe4", "#e08a83", "#e9ebef"
OLDER = (
    "not recorded: devices.jsonl lacks the times of admission and acceptance (a run of an older version); "
    "the seconds above are by the devices' own clocks"
)


def slowest_first(records: Sequence[DeviceRecord]) -> list[DeviceRecord]:
    """Sort devices: first those left out, which never finished, then those that needed longest after admission."""

    def slowness(record: DeviceRecord) -> tuple[bool, float, float]:
        return (record.left_out is None, -(record.needed_s or 0.0), -(record.seconds or 0.0))

    return sorted(records, key=slowness)


def is_recorded(records: Sequence[DeviceRecord]) -> bool:
    """Whether the records have the times of any device in the round."""
    return any(record.ended_s is not None for record in records)


def measured_round(
    round: RoundRecord,
    records: Sequence[DeviceRecord],
    hues: Mapping[str, int],
    left: float,
    top: float,
    width: float,
) -> tuple[list[str], float]:
    """Draw the rows in the order of `records`, names at the left of `left`. Returns the picture and its end."""
    if not is_recorded(records):
        return [svg.text(left, top + 12, OLDER, "s")], top + 24
    seconds = max([round.seconds, *(record.ended_s or 0.0 for record in records)])
    scale = width / seconds if seconds else 0.0
    first_row = top + 28
    bottom = first_row + len(records) * (ROW + GAP)
    body = [*_legend(left, top)]
    rows: list[str] = []
    for number, record in enumerate(records):
        y = first_row + number * (ROW + GAP)
        body.append(svg.text(left - 8, y + 13, record.device, anchor="end"))
        body.append(svg.bar(left, left + width, y, ROW, svg.FAINT))
        rows += _row(record, hues[record.device], scale, left, y, left + width)
    decided = max(record.ended_s or 0.0 for record in records)
    closing = svg.bar(
        left + decided * scale, left + seconds * scale, first_row - GAP, bottom - first_row + GAP, AFTER,
        f"{svg.short_seconds(seconds - decided)} until the round was committed",
    )  # fmt: skip
    # The lines of the axis are below the rows' bars and above their backgrounds.
    return [*body, closing, *svg.seconds_axis(seconds, left, width, first_row - GAP, bottom), *rows], bottom + 24


def _row(record: DeviceRecord, hue: int, scale: float, left: float, y: float, right: float) -> Iterator[str]:
    admitted, ended = record.admitted_s, record.ended_s
    if ended is None:
        return
    waited = ended if admitted is None else min(admitted, ended)
    if waited > 0:
        yield svg.bar(left, left + waited * scale, y + ROW / 3, ROW / 3, WAITING, _says(record, "waited", 0.0, waited))
    if admitted is not None:
        complete = ended if record.complete_s is None else min(max(record.complete_s, waited), ended)
        out = record.left_out is not None and record.complete_s is None
        colour = LEFT_OUT if out else svg.colour(hue, IN_ROUND)
        says = _says(record, "in its round until it was left out" if out else "in its round", waited, complete)
        yield svg.bar(left + waited * scale, _seen(left, waited, complete, scale), y, ROW, colour, says)
        if complete < ended:
            held = _says(record, "complete, until it was its turn", complete, ended)
            yield svg.bar(left + complete * scale, left + ended * scale, y, ROW, svg.colour(hue, HELD), held)
    if record.needed_s is not None:
        yield svg.text(right + 8, y + 13, svg.short_seconds(record.needed_s), "s")
    if record.left_out is not None:
        yield from _reason(f"left out: {record.left_out}", left + ended * scale, left, right, y)


def _reason(words: str, x: float, left: float, right: float, y: float) -> Iterator[str]:
    """Yield the reason, behind the bar that ends at x or, if there is more room, before its end."""
    room = LETTER_WIDTH * len(words)
    if x + 6 + room > right and x - left > right - x:
        start = max(left, x - room - 8)
        yield svg.bar(start, x - 2, y + 2, ROW - 4, "#ffffff")
        yield svg.text(start + 3, y + 13, words, "r")
    else:
        yield svg.text(x + 6, y + 13, words, "r")


def _seen(left: float, start: float, end: float, scale: float) -> float:
    return left + max(end * scale, start * scale + svg.MIN_PIXELS)


def _says(record: DeviceRecord, what: str, start: float, end: float) -> str:
    return f"{record.device}: {what} · {svg.short_seconds(end - start)}"


def _legend(left: float, top: float) -> Iterator[str]:
    x = left
    for words, colour in (
        ("waiting", WAITING),
        ("in its round", svg.colour(210, IN_ROUND)),
        ("complete, waiting for its turn", svg.colour(210, HELD)),
        ("left out", LEFT_OUT),
        ("sums and checkpoint, until the round was committed", AFTER),
    ):
        yield svg.bar(x, x + 12, top, 12, colour)
        yield svg.text(x + 17, top + 10, words, "a")
        x += 34 + 6 * len(words)
