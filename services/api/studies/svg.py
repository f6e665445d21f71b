"""A study's accuracies as a plot: a dot and an interval per method, in SVG written by hand.

Its greys and its two colours can be read on white and on black; the background is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from qcrd.records.study import StudyRow, StudyTable

WIDTH, ROW, TOP, AXIS, LEGEND = 720, 34, 34, 48, 18
RIGHT = 28
LETTER = 7.3
"""Width of a character at 13 px, about; the left margin holds the longest name."""
INK, LINE, METHOD, BASELINE = "#7a7f87", "#9aa0a8", "#2f81f7", "#e0822f"
TICKS = 8
"""At most so many steps on the axis."""
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


def svg(table: StudyTable) -> str:
    """Methods from top to bottom as in the table: small dots are seeds, the large one their mean.

    The baseline has its own colour; references are dashed lines, named below. A method that no
    run has measured yet has its name and nothing beside it.
    """
    left = 24 + LETTER * max(len(_name(row)) for row in table.rows)
    low, high, step = _span(table)
    foot = TOP + ROW * len(table.rows)
    height = foot + AXIS + LEGEND * len(table.references)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - RIGHT - left)

    title = f"Accuracy on {table.measured}: mean over seeds, 95 % interval"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="13" fill="{INK}">',
        f"<title>{escape(title)}</title>",
        _text(left, 18, title),
    ]
    for tick in _ticks(low, high, step):
        parts.append(_line(x(tick), TOP, x(tick), foot, LINE, opacity=0.4))
        parts.append(_text(x(tick), foot + 16, f"{tick:.2f}", anchor="middle"))
    parts.append(_text((left + WIDTH - RIGHT) / 2, foot + 36, "accuracy", anchor="middle"))
    for place, (name, one) in enumerate(table.references.items()):
        parts.append(_line(x(one.accuracy), TOP, x(one.accuracy), foot, INK, dashes=_dashes(place)))
        y = foot + AXIS + LEGEND * place
        parts.append(_line(left, y, left + 30, y, INK, dashes=_dashes(place)))
        parts.append(_text(left + 38, y + 4, f"{name} {one.accuracy:.3f}"))
    for place, row in enumerate(table.rows):
        middle = TOP + ROW * (place + 0.5)
        parts.append(_text(left - 10, middle + 4, _name(row), anchor="end"))
        parts += _drawn(row, middle, x, BASELINE if row.method == table.baseline else METHOD)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _name(row: StudyRow) -> str:
    return row.method if row.n == row.of else f"{row.method} ({row.n} of {row.of})"


def _span(table: StudyTable) -> tuple[float, float, float]:
    """Where the axis begins and ends, on whole steps within [0, 1], and the step."""
    shown = [one.accuracy for one in table.references.values()]
    for row in table.rows:
        shown += [one.accuracy for one in row.by_seed]
        shown += [value for value in (row.low, row.high) if value is not None]
    if not shown:
        return 0.0, 1.0, 0.2
    least, most = min(shown), max(shown)
    step = next((s for s in STEPS if most - least <= (TICKS - 2) * s), STEPS[-1])
    low = max(0.0, math.floor(least / step) * step)
    high = min(1.0, math.ceil(most / step) * step)
    if high <= low:  # all the same, and on a step
        low, high = max(0.0, low - step), min(1.0, high + step)
    return low, high, step


def _ticks(low: float, high: float, step: float) -> Iterator[float]:
    for number in range(round((high - low) / step) + 1):
        yield low + number * step


def _drawn(row: StudyRow, y: float, x: Callable[[float], float], colour: str) -> Iterator[str]:
    if row.low is not None and row.high is not None:
        yield _line(x(row.low), y, x(row.high), y, colour, width=2)
        for end in (row.low, row.high):
            yield _line(x(end), y - 5, x(end), y + 5, colour, width=2)
    if row.n > 1:
        for one in row.by_seed:
            yield _dot(x(one.accuracy), y, 3, colour, 0.5, f"seed {one.seed}: {one.accuracy:.3f}")
    if row.accuracy is not None:
        yield _dot(x(row.accuracy), y, 6, colour, 1.0, f"{row.method}: {row.accuracy:.3f}")


def _dashes(place: int) -> str:
    """References differ by their dashes, which print and colour blindness leave apart."""
    return ("6 4", "2 3")[place % 2]


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    colour: str,
    *,
    width: float = 1,
    opacity: float = 1.0,
    dashes: str | None = None,
) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}"{dashed}/>'
    )


def _dot(x: float, y: float, radius: float, colour: str, opacity: float, told: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" '
        f'fill-opacity="{opacity}"><title>{escape(told)}</title></circle>'
    )
