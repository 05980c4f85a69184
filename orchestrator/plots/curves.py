"""Draws a figure over the rounds as curves: of the whole run, and of single devices."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mpsl.drawing import svg

MAX_POINTS = 1000
"""Maximum points of a curve. Of a longer one, every n-th point and the last are drawn."""
MAX_DOTS = 40
"""With at most this many points, each has a dot, so that a single one is visible."""
X_TICKS, Y_TICKS = 8, 5
LEGEND_LINE_WIDTH = 20
"""Pixels of a sample line of the legend."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """`points` are (round, value), by round. A curve with `title` stands in the legend."""

    points: Sequence[Point]
    colour: str
    title: str = ""
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Frame:
    """The position of a chart: pixels of its inner area, without title, legend and the figures beside it."""

    x: float
    y: float
    width: float
    height: float


def chart(
    title: str,
    curves: Sequence[Curve],
    frame: Frame,
    rounds: tuple[int, int],
    shown: Callable[[float], str],
    most: float | None = None,
) -> Iterator[str]:
    """Yield the curves, first ones below; `rounds` are the first and the last of the axis, `shown` formats a value.

    The axis of values begins at 0 and ends at `most`, or at the largest value.
    """
    values = [value for curve in curves for _, value in curve.points]
    top = most if most is not None else max(values, default=0.0)
    yield svg.text(frame.x, frame.y - 26, title, "t")
    yield from _legend([curve for curve in curves if curve.title], frame)
    yield svg.bar(frame.x, frame.x + frame.width, frame.y, frame.height, svg.FAINT)
    for value in svg.ticks(top, Y_TICKS):
        y = _height(value, top, frame)
        yield f'<line x1="{frame.x:g}" x2="{frame.x + frame.width:g}" y1="{y:.2f}" y2="{y:.2f}" stroke="#d7dae0"/>'
        yield svg.text(frame.x - 6, y + 4, shown(value), "a", "end")
    for number in _round_ticks(*rounds):
        yield svg.text(_across(number, rounds, frame), frame.y + frame.height + 16, str(number), "a", "middle")
    if not values:
        yield svg.text(frame.x + frame.width / 2, frame.y + frame.height / 2, "not measured", "s", "middle")
    for curve in curves:
        yield from _line(curve, top, frame, rounds)


def _line(curve: Curve, top: float, frame: Frame, rounds: tuple[int, int]) -> Iterator[str]:
    points = [(_across(number, rounds, frame), _height(value, top, frame)) for number, value in _thinned(curve.points)]
    dashes = ' stroke-dasharray="6 3"' if curve.dashed else ""
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield (
            f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="{curve.width:g}"'
            f'{dashes} stroke-linejoin="round"/>'
        )
    if len(points) <= MAX_DOTS:
        for x, y in points:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{curve.width + 0.7:g}" fill="{curve.colour}"/>'


def _legend(curves: Sequence[Curve], frame: Frame) -> Iterator[str]:
    x = frame.x
    for curve in curves:
        dashes = ' stroke-dasharray="6 3"' if curve.dashed else ""
        yield (
            f'<line x1="{x:g}" x2="{x + LEGEND_LINE_WIDTH:g}" y1="{frame.y - 12:g}" y2="{frame.y - 12:g}" '
            f'stroke="{curve.colour}" stroke-width="{curve.width:g}"{dashes}/>'
        )
        yield svg.text(x + LEGEND_LINE_WIDTH + 5, frame.y - 8, curve.title, "a")
        x += LEGEND_LINE_WIDTH + 16 + 6 * len(curve.title)


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    if len(points) <= MAX_POINTS:
        return points
    step = -(-len(points) // (MAX_POINTS - 1))
    return [*points[:-1:step], points[-1]]


def _across(number: float, rounds: tuple[int, int], frame: Frame) -> float:
    first, last = rounds
    return frame.x + frame.width * ((number - first) / (last - first) if last > first else 0.5)


def _height(value: float, top: float, frame: Frame) -> float:
    return frame.y + frame.height * (1 - (min(value / top, 1.0) if top > 0 else 0.0))


def _round_ticks(first: int, last: int) -> Iterator[int]:
    """Return ticks at whole rounds: the first, and round numbers up to the last."""
    step = max(1, round(svg.round_number(max(1, last - first) / X_TICKS)))
    yield first
    for number in range(first // step * step + step, last + 1, step):
        if number - first >= step / 2:
            yield number
