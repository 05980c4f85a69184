"""The picture of a run: loss and accuracy over the rounds, each device's figures in one round, and that round's rows.

Stragglers and the worst devices come first, because a mean hides them.
"""

from collections.abc import Callable, Sequence
from math import inf

from mpsl.drawing import svg
from mpsl.planning.report import count
from orchestrator.plots.curves import Curve, Frame, Point, chart
from orchestrator.plots.device_bars import device_bars, worst_first
from orchestrator.plots.measured_round import is_recorded, measured_round, slowest_first
from orchestrator.run_records import DeviceRecord, RoundRecord, RunRecords

WIDTH, LEFT, RIGHT = 1200, 130, 70
"""Pixels: of the rows, of the names, to the right of the rows."""
CHART_HEIGHT, BETWEEN_CHARTS = 220, 90
MAX_DEVICES = 40
"""The maximum number of rows or curves of devices, the worst or slowest ones; the others are counted."""
TRAINING, TEST = "#3b4252", "#2f6fde"
MAX_TITLE = 160


def run_picture(records: RunRecords, number: int) -> str:
    """Return the run as SVG, with round `number`, which is among its rounds, in detail."""
    of_round = records.of_round(number)
    round = next(each for each in records.rounds if each.round == number)
    hues = svg.hues(list(dict.fromkeys(record.device for record in records.devices)))
    worst, slowest = worst_first(of_round)[:MAX_DEVICES], slowest_first(of_round)[:MAX_DEVICES]
    longest = max((len(record.device) for record in of_round), default=0)
    # Long names extend to the left of everything else.
    more = max(0, svg.LETTER_WIDTH * longest - (LEFT - 16))
    body = [svg.text(8, 24, _title(records), "t")]
    body += _charts(records, [record.device for record in worst], hues)
    first, y = _section(
        f"Round {number}, each device, the worst first", len(of_round), 92.0 + CHART_HEIGHT + 56,
        lambda top: device_bars(worst, hues, LEFT, top, WIDTH),
    )  # fmt: skip
    second, y = _section(
        f"Round {number}, {_round_title(round, of_round)}", len(of_round), y,
        lambda top: measured_round(round, slowest, hues, LEFT, top, WIDTH),
    )  # fmt: skip
    return svg.document(more + LEFT + WIDTH + RIGHT, y - 20, [*body, *first, *second], more)


def _section(
    title: str, devices: int, y: float, draw: Callable[[float], tuple[list[str], float]]
) -> tuple[list[str], float]:
    """Draw rows of devices under a title. Returns the picture and where the next section begins."""
    body = [svg.text(8, y, title, "t")]
    if not devices:
        return [*body, svg.text(LEFT, y + 24, "no device is recorded in this round", "s")], y + 64
    rows, y = draw(y + 12)
    if devices > MAX_DEVICES:
        y += 16
        rows.append(svg.text(LEFT, y, f"and {count(devices - MAX_DEVICES, 'more device')}", "s"))
    return [*body, *rows], y + 36


def _charts(records: RunRecords, devices: Sequence[str], hues: dict[str, int]) -> list[str]:
    width = (WIDTH - BETWEEN_CHARTS) / 2
    rounds = (records.rounds[0].round, records.rounds[-1].round)
    by_device: dict[str, list[DeviceRecord]] = {device: [] for device in devices}
    for record in records.devices:
        if record.device in by_device:
            by_device[record.device].append(record)

    def of_devices(value: Callable[[DeviceRecord], float | None]) -> list[Curve]:
        return [Curve(_points(lines, value), svg.colour(hues[device], 70)) for device, lines in by_device.items()]

    thin = Curve((), svg.colour(210, 70), f"each device ({count(len(devices), 'curve')}), test" if devices else "")
    loss = chart(
        "Loss over rounds",
        [
            *of_devices(lambda record: record.test_loss if record.test_loss is not None else record.loss),
            thin,
            Curve(_points(records.rounds, lambda record: record.loss), TRAINING, "training, all devices", 2.0),
            Curve(_points(records.rounds, lambda record: record.test_loss), TEST, "test, all devices", 2.0, True),
        ],
        Frame(LEFT, 92, width, CHART_HEIGHT), rounds, lambda value: f"{value:.4g}",
    )  # fmt: skip
    accuracy = chart(
        "Accuracy over rounds",
        [
            *of_devices(lambda record: record.accuracy),
            thin,
            Curve(_points(records.rounds, lambda record: record.accuracy), TEST, "test, all devices", 2.0, True),
        ],
        Frame(LEFT + width + BETWEEN_CHARTS, 92, width, CHART_HEIGHT), rounds, lambda value: f"{value:.0%}", 1.0,
    )  # fmt: skip
    return [*loss, *accuracy]


def _points(
    records: Sequence[RoundRecord] | Sequence[DeviceRecord],
    value: Callable[..., float | None],
) -> list[Point]:
    found = ((record.round, value(record)) for record in records)
    return [(number, known) for number, known in found if known is not None and known < inf]


def _title(records: RunRecords) -> str:
    devices = len({record.device for record in records.devices})
    parts = [records.run or "a run", count(len(records.rounds), "round")]
    parts += [count(devices, "device")] if devices else ["devices.jsonl is missing: no figures of single devices"]
    last = records.rounds[-1]
    if last.accuracy is not None:
        parts.append(f"accuracy {last.accuracy:.2%}")
    if records.state:
        parts.append(f"{records.state}{f': {records.reason}' if records.reason else ''}")
    title = " · ".join(parts)
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…"


def _round_title(round: RoundRecord, of_round: Sequence[DeviceRecord]) -> str:
    predicted = "" if round.predicted_s is None else f", {svg.short_seconds(round.predicted_s)} predicted"
    order = ", the slowest device first" if is_recorded(of_round) else ""
    return f"{svg.short_seconds(round.seconds)} measured{predicted}{order}"
