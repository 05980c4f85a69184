"""The blocks of a model as bars: what crosses a cut after each, what backward keeps, weights, and operations."""

from collections.abc import Callable
from dataclasses import dataclass

from mpsl.drawing import svg
from orchestrator.model_view import BlockView, ModelView

LEFT, ROW, GAP, WIDTH, BETWEEN, TOP = 290, 15, 6, 190, 90, 74
"""Pixels: room for names, height of a bar, between rows, length of a full bar, room for its figure, above the rows."""


@dataclass(frozen=True)
class Figure:
    """One figure of all blocks; `hue` is the colour of its bars."""

    title: str
    value: Callable[[BlockView], float]
    hue: int


FIGURES = (
    Figure("crosses a cut after it, bytes", lambda block: block.output_bytes, 210),
    Figure("kept for backward, bytes", lambda block: block.stored_bytes, 30),
    Figure("parameters", lambda block: block.parameters, 130),
    Figure("operations, forward", lambda block: block.flops, 280),
)


def picture(view: ModelView) -> str:
    """Return the picture as SVG."""
    width = LEFT + len(FIGURES) * (WIDTH + BETWEEN)
    height = TOP + len(view.blocks) * (ROW + GAP) + 16
    body = [
        svg.text(16, 26, view.name, "t"),
        svg.text(16, 44, f"{view.parameters:,} parameters, batches of {view.batch_size}", "s"),
    ]
    for number, block in enumerate(view.blocks):
        body.append(svg.text(LEFT - 10, TOP + number * (ROW + GAP) + 12, f"{number} {block.name[:38]}", anchor="end"))
    for column, figure in enumerate(FIGURES):
        x = LEFT + column * (WIDTH + BETWEEN)
        body.append(svg.text(x, TOP - 8, figure.title, "a"))
        most = max((figure.value(block) for block in view.blocks), default=0.0) or 1.0
        for number, block in enumerate(view.blocks):
            y, value = TOP + number * (ROW + GAP), figure.value(block)
            end = x + max(svg.MIN_PIXELS, WIDTH * value / most)
            tensors = f", {len(block.crosses)} tensors" if column == 0 and len(block.crosses) > 1 else ""
            body.append(svg.bar(x, x + WIDTH, y, ROW, svg.FAINT))
            body.append(svg.bar(x, end, y, ROW, svg.colour(figure.hue, 56), f"{value:,.0f}{tensors}"))
            body.append(svg.text(x + WIDTH + 6, y + 12, _short(value) + ("*" if tensors else ""), "s"))
    return svg.document(width, height, body)


def _short(value: float) -> str:
    """A large number in three digits."""
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}T"
