"""A Gantt chart of one round: a row for each participant, a colour for each device. It makes SVG."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpsl.drawing import svg
from mpsl.sim.timeline import COMPUTE, DOWN, UP, Span, Timeline

WIDTH, LEFT, RIGHT, TOP = 1200, 130, 70, 64
"""Pixels: of the time axis, of the names, of the shares, above the first row."""
ROW, GAP, STRIP = 26, 10, 4
"""Pixels: height of a row's bars, between rows, of the strip that shows a link."""
MAX_DEVICES = 12
"""The maximum number of rows for devices; the others are counted."""

LIGHTNESS = {"forward": 70, "forward and backward": 56, "backward": 44, "batch": 56, "copy": 86, "fold": 30}


@dataclass(frozen=True)
class Row:
    """A participant; `group` is shown once above its rows."""

    process: str
    group: str


def gantt(timeline: Timeline, rows: Sequence[Row], devices: Sequence[str], title: str) -> str:
    """Return the first round of `timeline` (which kept its spans) as an SVG document.

    The first MAX_DEVICES of the `rows` of `devices` are drawn.
    """
    first = timeline.rounds[0]
    seconds = first.seconds or 0.0
    scale = WIDTH / seconds if seconds else 0.0
    hues = svg.hues(devices)
    shown = _shown(rows, set(devices))
    spans: dict[tuple[str, str], list[Span]] = {}
    for span in timeline.spans:
        if span.start < seconds:
            spans.setdefault((span.process, span.lane), []).append(span)
    body: list[str] = []
    y, group = float(TOP), ""
    hidden = len(rows) - len(shown)
    last = next((row for row in reversed(shown) if row.process in hues), None)
    for row in shown:
        if row.group != group:
            group = row.group
            y += 8
            body.append(svg.bar(8, 8 + svg.LETTER_WIDTH * len(group), y, 16, "#fff"))
            body.append(svg.text(8, y + 12, group, "s"))
            y += 18
        body.append(svg.text(LEFT - 8, y + ROW / 2 + 4, row.process, anchor="end"))
        body.append(svg.bar(LEFT, LEFT + WIDTH, y, ROW, svg.FAINT))
        computing = spans.get((row.process, COMPUTE), [])
        body += _bars(computing, hues, scale, y, ROW)
        for number, lane in enumerate((UP, DOWN)):
            strip = y + ROW + 1 + number * (STRIP + 0.5)
            body += _bars(spans.get((row.process, lane), []), hues, scale, strip, STRIP)
        busy = sum(min(span.end, seconds) - span.start for span in computing) / seconds if seconds else 0.0
        body.append(svg.text(LEFT + WIDTH + 8, y + ROW / 2 + 4, f"{busy:.0%}", "s"))
        y += ROW + GAP + 2 * STRIP
        if hidden and row is last:
            body.append(svg.text(LEFT, y + 6, f"and {hidden} more devices", "s"))
            y += 20
    head = [svg.text(8, 24, title, "t"), *_legend(), *svg.seconds_axis(seconds, LEFT, WIDTH, TOP, y)]
    # Long names extend to the left of everything else.
    more = max(0, svg.LETTER_WIDTH * max((len(row.process) for row in shown), default=0) - (LEFT - 16))
    return svg.document(more + LEFT + WIDTH + RIGHT, y + 34, [*head, *body], more)


def _shown(rows: Sequence[Row], devices: set[str]) -> list[Row]:
    own = [row for row in rows if row.process in devices][:MAX_DEVICES]
    return [row for row in rows if row.process not in devices or row in own]


def _bars(spans: Sequence[Span], hues: dict[str, int], scale: float, y: float, height: float) -> Iterator[str]:
    """Yield a bar for each visible span; spans that are too narrow share a grey bar."""
    began = ended = -1.0
    for span in spans:
        x, end = LEFT + span.start * scale, LEFT + span.end * scale
        if end - x >= svg.MIN_PIXELS:
            if ended > began:
                yield svg.bar(began, ended, y, height, svg.GREY)
                began = ended = -1.0
            hue = hues.get(span.device)
            colour = "#b0b4ba" if hue is None else svg.colour(hue, LIGHTNESS.get(span.what, 60))
            seconds = span.end - span.start
            yield svg.bar(x, end, y, height, colour, f"{span.what} {span.device} · {seconds * 1e3:.3g} ms")
        elif ended > began and x - ended < svg.MIN_PIXELS:
            ended = end
        else:
            if ended > began:
                yield svg.bar(began, max(ended, began + svg.MIN_PIXELS), y, height, svg.GREY)
            began, ended = x, end
    if ended > began:
        yield svg.bar(began, max(ended, began + svg.MIN_PIXELS), y, height, svg.GREY)


def _legend() -> Iterator[str]:
    x = float(LEFT)
    for words, what in (("forward", "forward"), ("backward and step", "backward"), ("copy", "copy"), ("fold", "fold")):
        yield svg.bar(x, x + 12, 36, 12, svg.colour(210, LIGHTNESS[what]))
        yield svg.text(x + 17, 46, words, "a")
        x += 34 + 6.5 * len(words)
    more = "one colour per device; thin strips: the link up and down; at the right: share of the round with computation"
    yield svg.text(x + 10, 46, more, "a")
