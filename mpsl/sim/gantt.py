"""A picture of one round: who computes what when, a row for each participant, a colour for each device. Makes SVG."""

from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from html import escape

from mpsl.sim.timeline import COMPUTE, DOWN, UP, Span, Timeline

WIDTH, LEFT, RIGHT, TOP = 1200, 130, 70, 64
"""Pixels: of the time axis, of the names, of the shares, above the first row."""
ROW, GAP, STRIP = 26, 10, 4
"""Pixels: height of a row's bars, between rows, of the strip that shows a link."""
MAX_DEVICES = 12
"""How many devices get a row; the others are counted."""
MIN_PIXELS = 0.6
"""Bars that are narrower melt into one with their neighbours."""
LETTER = 7
"""Pixels of a name's letter, about."""
TICKS = 8
GOLDEN_ANGLE = 137.508
"""Degrees between the hues of two devices that follow one another, so that neighbours differ."""

LIGHTNESS = {"forward": 70, "forward and backward": 56, "backward": 44, "batch": 56, "copy": 86, "fold": 30}
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}"
    ".s{fill:#666}"
    ".a{fill:#666;font-size:11px}"
)


@dataclass(frozen=True)
class Row:
    """A participant; `group` is said once above its rows."""

    process: str
    group: str


def gantt(timeline: Timeline, rows: Sequence[Row], devices: Sequence[str], title: str) -> str:
    """The first round of `timeline` (which kept its spans) as an SVG document."""
    first = timeline.rounds[0]
    seconds = first.seconds or 0.0
    scale = WIDTH / seconds if seconds else 0.0
    hues = {device: round(number * GOLDEN_ANGLE % 360) for number, device in enumerate(devices)}
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
            body.append(f'<rect x="8" y="{y:g}" width="{LETTER * len(group)}" height="16" fill="#fff"/>')
            body.append(f'<text x="8" y="{y + 12:g}" class="s">{escape(group)}</text>')
            y += 18
        body.append(f'<text x="{LEFT - 8}" y="{y + ROW / 2 + 4:g}" text-anchor="end">{escape(row.process)}</text>')
        body.append(f'<rect x="{LEFT}" y="{y:g}" width="{WIDTH}" height="{ROW}" fill="#f3f4f6"/>')
        computing = spans.get((row.process, COMPUTE), [])
        body += _bars(computing, hues, scale, y, ROW)
        for number, lane in enumerate((UP, DOWN)):
            strip = y + ROW + 1 + number * (STRIP + 0.5)
            body += _bars(spans.get((row.process, lane), []), hues, scale, strip, STRIP)
        busy = sum(min(span.end, seconds) - span.start for span in computing) / seconds if seconds else 0.0
        body.append(f'<text x="{LEFT + WIDTH + 8}" y="{y + ROW / 2 + 4:g}" class="s">{busy:.0%}</text>')
        y += ROW + GAP + 2 * STRIP
        if hidden and row is last:
            body.append(f'<text x="{LEFT}" y="{y + 6:g}" class="s">and {hidden} more devices</text>')
            y += 20
    head = [
        f'<text x="8" y="24" class="t">{escape(title)}</text>',
        *_legend(),
        *_axis(seconds, scale, y),
    ]
    # Long names stand out to the left of everything else.
    more = max(0, LETTER * max((len(row.process) for row in shown), default=0) - (LEFT - 16))
    width, height = more + LEFT + WIDTH + RIGHT, y + 34
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" '
        f'viewBox="{-more} 0 {width} {height:g}"><style>{STYLE}</style>'
        f'<rect x="{-more}" width="{width}" height="{height:g}" fill="#fff"/>' + "".join([*head, *body]) + "</svg>\n"
    )


def _shown(rows: Sequence[Row], devices: set[str]) -> list[Row]:
    own = [row for row in rows if row.process in devices][:MAX_DEVICES]
    return [row for row in rows if row.process not in devices or row in own]


def _bars(spans: Sequence[Span], hues: dict[str, int], scale: float, y: float, height: float) -> Iterator[str]:
    """A bar for each span that can be seen; those that are too narrow become grey together."""
    began = ended = -1.0
    for span in spans:
        x, end = LEFT + span.start * scale, LEFT + span.end * scale
        if end - x >= MIN_PIXELS:
            if ended > began:
                yield _bar(began, ended, y, height, "#8a8f98", "")
                began = ended = -1.0
            hue = hues.get(span.device)
            lightness = LIGHTNESS.get(span.what, 60)
            colour = "#b0b4ba" if hue is None else _colour(hue, lightness)
            seconds = span.end - span.start
            yield _bar(x, end, y, height, colour, f"{span.what} {span.device} · {seconds * 1e3:.3g} ms")
        elif ended > began and x - ended < MIN_PIXELS:
            ended = end
        else:
            if ended > began:
                yield _bar(began, max(ended, began + MIN_PIXELS), y, height, "#8a8f98", "")
            began, ended = x, end
    if ended > began:
        yield _bar(began, max(ended, began + MIN_PIXELS), y, height, "#8a8f98", "")


def _bar(x: float, end: float, y: float, height: float, colour: str, says: str) -> str:
    bar = f'<rect x="{x:.2f}" y="{y:g}" width="{end - x:.2f}" height="{height}" fill="{colour}"'
    return f"{bar}><title>{escape(says)}</title></rect>" if says else f"{bar}/>"


def _colour(hue: int, lightness: int) -> str:
    # As numbers: not every viewer knows hsl().
    red, green, blue = hls_to_rgb(hue / 360, lightness / 100, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _legend() -> Iterator[str]:
    x = float(LEFT)
    for text, what in (("forward", "forward"), ("backward and step", "backward"), ("copy", "copy"), ("fold", "fold")):
        yield f'<rect x="{x:g}" y="36" width="12" height="12" fill="{_colour(210, LIGHTNESS[what])}"/>'
        yield f'<text x="{x + 17:g}" y="46" class="a">{text}</text>'
        x += 34 + 6.5 * len(text)
    more = "one colour a device; thin strips: the link up and down; at the right: share of the round that it computes"
    yield f'<text x="{x + 10:g}" y="46" class="a">{more}</text>'


def _axis(seconds: float, scale: float, bottom: float) -> Iterator[str]:
    step = _round_number(seconds / TICKS) if seconds else 1.0
    at = 0.0
    while at <= seconds * (1 + 1e-9):
        x = LEFT + at * scale
        yield f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{TOP}" y2="{bottom:g}" stroke="#d7dae0"/>'
        yield f'<text x="{x:.2f}" y="{bottom + 16:g}" class="a" text-anchor="middle">{_seconds(at)}</text>'
        at += step


def _round_number(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(power * times for times in (1, 2, 5, 10) if power * times >= value)


def _seconds(value: float) -> str:
    return f"{value * 1e3:.4g} ms" if 0 < value < 1 else f"{value:.4g} s"
