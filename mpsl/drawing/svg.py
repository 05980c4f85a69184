"""The elements of all pictures: texts, bars, axes, a colour for each device. It makes SVG, as text.

It must never decide what is shown.
"""

from collections.abc import Iterable, Iterator, Sequence
from colorsys import hls_to_rgb
from html import escape

LETTER_WIDTH = 7
"""Approximate width of a letter, in pixels."""
MIN_PIXELS = 0.6
"""The minimum width of a bar, so that it is visible."""
TICKS = 8
GREY, FAINT = "#8a8f98", "#f3f4f6"
GOLDEN_ANGLE = 137.508
"""Degrees between the hues of consecutive devices, so that neighbours differ."""
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.t{font-weight:600;font-size:15px}"
    ".s{fill:#666}"
    ".a{fill:#666;font-size:11px}"
    ".r{fill:#b3261e;font-size:11px}"
)


def document(width: float, height: float, body: Iterable[str], more: float = 0.0) -> str:
    """Return a whole picture on white, from x = −`more` (room for names on the left) to `width` − `more`."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="{-more:g} 0 {width:g} {height:g}"><style>{STYLE}</style>'
        f'<rect x="{-more:g}" width="{width:g}" height="{height:g}" fill="#fff"/>' + "".join(body) + "</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "") -> str:
    """Return text at (x, y); `kind` is t (title), s (soft), a (axis), r (alarm) or plain; `anchor` is middle or end."""
    named = f' class="{kind}"' if kind else ""
    anchored = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x:.2f}" y="{y:g}"{named}{anchored}>{escape(_printable(words))}</text>'


def bar(x: float, end: float, y: float, height: float, colour: str, says: str = "") -> str:
    """Return a bar from x to `end`; `says` is its tooltip."""
    shape = f'<rect x="{x:.2f}" y="{y:g}" width="{max(0.0, end - x):.2f}" height="{height:g}" fill="{colour}"'
    return f"{shape}><title>{escape(_printable(says))}</title></rect>" if says else f"{shape}/>"


def hues(devices: Sequence[str]) -> dict[str, int]:
    """Return a hue in degrees for each device, the same in every picture."""
    return {device: round(number * GOLDEN_ANGLE % 360) for number, device in enumerate(devices)}


def colour(hue: int, lightness: int) -> str:
    """Return a colour as #rrggbb, because not every viewer knows hsl(); `lightness` in per cent."""
    red, green, blue = hls_to_rgb(hue / 360, lightness / 100, 0.6)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def seconds_axis(seconds: float, left: float, width: float, top: float, bottom: float) -> Iterator[str]:
    """Yield lines at round times from 0 to `seconds`, with the times below them."""
    for at in ticks(seconds):
        x = left + (at / seconds * width if seconds else 0.0)
        yield f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{top:g}" y2="{bottom:g}" stroke="#d7dae0"/>'
        yield text(x, bottom + 16, short_seconds(at), "a", "middle")


def ticks(most: float, count: int = TICKS) -> Iterator[float]:
    """Return round numbers from 0 to `most`, about `count` of them."""
    step = round_number(most / count) if most > 0 else 1.0
    number = 0
    while number * step <= most * (1 + 1e-9):
        yield number * step
        number += 1


def round_number(value: float) -> float:
    """Return the next 1, 2 or 5 times a power of ten."""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(power * times for times in (1, 2, 5, 10) if power * times >= value)


def short_seconds(value: float) -> str:
    """Return a time as a label of an axis."""
    return f"{value * 1e3:.4g} ms" if 0 < value < 1 else f"{value:.4g} s"


def _printable(words: str) -> str:
    """Replace control characters, which XML does not allow even escaped."""
    return "".join(character if character.isprintable() else " " for character in words)
