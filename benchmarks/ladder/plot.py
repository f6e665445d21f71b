"""Plot a results file of the ladder as an SVG."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.ladder.table import ResultLine, group_by, mean_of
from services.api.studies.svg_elements import make_dot, make_line, make_text

LEFT_MARGIN, WIDTH, ROW_HEIGHT, TOP_MARGIN = 210, 420, 22, 34
DARK, LIGHT = "#1f3a5f", "#9aa5b1"


def render_svg(results: Sequence[ResultLine]) -> str:
    """A panel per data set: each seed's accuracy a dot, the mean a bar, the majority class a line.

    Every panel starts at 0 and ends at the highest accuracy there is, rounded up to a tenth.
    """
    parts: list[str] = []
    y = 10
    for dataset, runs in group_by(
        [line for line in results if "failed" not in line], "dataset"
    ).items():
        drawn, height = _render_panel(dataset, runs, y)
        parts += drawn
        y += height
    size = f'width="{LEFT_MARGIN + WIDTH + 60}" height="{y}"'
    style = f'font-family="sans-serif" font-size="12" fill="{DARK}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>\n"])


def _render_panel(dataset: str, runs: Sequence[ResultLine], y: int) -> tuple[list[str], int]:
    majority = mean_of(runs, "majority_class") or 0.0
    top = max(0.1, *(line["test"] for line in runs), majority)
    top = -(-round(top * 1000) // 100) / 10

    def x(value: float) -> float:
        return float(LEFT_MARGIN + WIDTH * value / top)

    rows = group_by(runs, "method")
    bottom = y + TOP_MARGIN + ROW_HEIGHT * len(rows)
    drawn = [
        make_text(
            LEFT_MARGIN,
            y + 16,
            f"{dataset}: test accuracy, {len(group_by(runs, 'seed'))} seeds",
            bold=True,
        ),
        make_line(x(0), y + TOP_MARGIN - 8, x(0), bottom, LIGHT),
        make_line(x(majority), y + TOP_MARGIN - 8, x(majority), bottom, LIGHT, dashes="4 3"),
        make_text(x(majority), bottom + 13, f"majority class {majority:.2f}", anchor="middle"),
        make_text(x(top), bottom + 13, f"{top:.1f}", anchor="end"),
    ]
    for index, (method, method_runs) in enumerate(rows.items()):
        middle = y + TOP_MARGIN + ROW_HEIGHT * index + 6
        average = mean_of(method_runs, "test") or 0.0
        drawn.append(make_text(LEFT_MARGIN - 8, middle + 4, method, anchor="end"))
        drawn.append(make_line(x(average), middle - 7, x(average), middle + 7, DARK, width=3))
        drawn += [
            make_dot(
                x(one["test"]), middle, 4, DARK, 0.35, f"seed {one['seed']}: {one['test']:.3f}"
            )
            for one in method_runs
        ]
        drawn.append(make_text(x(top) + 12, middle + 4, f"{average:.3f}"))
    return drawn, TOP_MARGIN + ROW_HEIGHT * len(rows) + 34
