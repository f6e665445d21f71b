"""A study's accuracies as a plot: a dot and an interval per method, in SVG written by hand.

Its greys and its two colours can be read on white and on black; the background is transparent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from html import escape

from qcrd.records.study import StudyRow, StudyTable
from services.api.studies.svg_elements import make_dot, make_line, make_text

WIDTH, ROW_HEIGHT, TOP_MARGIN, AXIS_HEIGHT, LEGEND_ROW_HEIGHT = 720, 34, 34, 48, 18
RIGHT_MARGIN = 28
CHARACTER_WIDTH = 7.3
"""Width of a character at 13 px, about; the left margin holds the longest name."""
TEXT_COLOUR, GRID_COLOUR, METHOD_COLOUR, BASELINE_COLOUR = (
    "#7a7f87",
    "#9aa0a8",
    "#2f81f7",
    "#e0822f",
)
MAX_TICKS = 8
"""At most so many steps on the axis."""
TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


def render_svg(table: StudyTable) -> str:
    """Methods from top to bottom as in the table: small dots are seeds, the large one their mean.

    The baseline has its own colour; references are dashed lines, named below. A method without
    a run yet has its name only.
    """
    left = 24 + CHARACTER_WIDTH * max(len(_format_row_label(row)) for row in table.rows)
    low, high, step = _compute_axis_range(table)
    plot_bottom = TOP_MARGIN + ROW_HEIGHT * len(table.rows)
    height = plot_bottom + AXIS_HEIGHT + LEGEND_ROW_HEIGHT * len(table.references)

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - RIGHT_MARGIN - left)

    title = f"Accuracy on {table.measured}: mean over seeds, 95 % interval"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" font-family="system-ui, sans-serif" '
        f'font-size="13" fill="{TEXT_COLOUR}">',
        f"<title>{escape(title)}</title>",
        make_text(left, 18, title),
    ]
    for tick in _iter_ticks(low, high, step):
        parts.append(make_line(x(tick), TOP_MARGIN, x(tick), plot_bottom, GRID_COLOUR, opacity=0.4))
        parts.append(make_text(x(tick), plot_bottom + 16, f"{tick:.2f}", anchor="middle"))
    parts.append(
        make_text((left + WIDTH - RIGHT_MARGIN) / 2, plot_bottom + 36, "accuracy", anchor="middle")
    )
    for place, (name, one) in enumerate(table.references.items()):
        parts.append(
            make_line(
                x(one.accuracy),
                TOP_MARGIN,
                x(one.accuracy),
                plot_bottom,
                TEXT_COLOUR,
                dashes=_get_dash_pattern(place),
            )
        )
        y = plot_bottom + AXIS_HEIGHT + LEGEND_ROW_HEIGHT * place
        parts.append(make_line(left, y, left + 30, y, TEXT_COLOUR, dashes=_get_dash_pattern(place)))
        parts.append(make_text(left + 38, y + 4, f"{name} {one.accuracy:.3f}"))
    for place, row in enumerate(table.rows):
        middle = TOP_MARGIN + ROW_HEIGHT * (place + 0.5)
        parts.append(make_text(left - 10, middle + 4, _format_row_label(row), anchor="end"))
        parts += _draw_row(
            row, middle, x, BASELINE_COLOUR if row.method == table.baseline else METHOD_COLOUR
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _format_row_label(row: StudyRow) -> str:
    return row.method if row.n == row.of else f"{row.method} ({row.n} of {row.of})"


def _compute_axis_range(table: StudyTable) -> tuple[float, float, float]:
    """The axis's start and end, on whole steps within [0, 1], and the step."""
    values = [one.accuracy for one in table.references.values()]
    for row in table.rows:
        values += [one.accuracy for one in row.by_seed]
        values += [value for value in (row.low, row.high) if value is not None]
    if not values:
        return 0.0, 1.0, 0.2
    least, most = min(values), max(values)
    step = next((s for s in TICK_STEPS if most - least <= (MAX_TICKS - 2) * s), TICK_STEPS[-1])
    low = max(0.0, math.floor(least / step) * step)
    high = min(1.0, math.ceil(most / step) * step)
    if high <= low:  # all the same, and on a step
        low, high = max(0.0, low - step), min(1.0, high + step)
    return low, high, step


def _iter_ticks(low: float, high: float, step: float) -> Iterator[float]:
    for number in range(round((high - low) / step) + 1):
        yield low + number * step


def _draw_row(row: StudyRow, y: float, x: Callable[[float], float], colour: str) -> Iterator[str]:
    if row.low is not None and row.high is not None:
        yield make_line(x(row.low), y, x(row.high), y, colour, width=2)
        for end in (row.low, row.high):
            yield make_line(x(end), y - 5, x(end), y + 5, colour, width=2)
    if row.n > 1:
        for one in row.by_seed:
            yield make_dot(
                x(one.accuracy), y, 3, colour, 0.5, f"seed {one.seed}: {one.accuracy:.3f}"
            )
    if row.accuracy is not None:
        yield make_dot(x(row.accuracy), y, 6, colour, 1.0, f"{row.method}: {row.accuracy:.3f}")


def _get_dash_pattern(index: int) -> str:
    """References differ by their dashes, which print and colour blindness leave apart."""
    return ("6 4", "2 3")[index % 2]
