"""A job's report as one HTML file that needs nothing else: no script, no font, no network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from qcrd.cli.output.report import (
    format_judge_health,
    format_usage,
    list_findings,
    list_next_commands,
)
from qcrd.cli.output.report_cells import (
    ACCURACY_COLUMNS,
    METHOD_TITLES,
    choose_rows,
    count_rationales,
    iter_accuracy_cells,
)
from qcrd.records.job import Report
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.reports.classes import ClassReport

MAX_SHOWN = 50
"""Predictions of a kind in the page; the rest is a command away."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7c; --line: #d6dde6; --bar: #2f6fb0;
  --page: #fff; --wash: #f3f6f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #9aa8b8; --line: #36424f;
  --bar: #6aa8e0; --page: #14191f; --wash: #1d242c; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2.2rem; }
.advice { font-size: 1.2rem; border-left: 4px solid var(--bar); padding: .6rem 1rem;
  background: var(--wash); }
.soft, caption { color: var(--soft); font-size: .9rem; text-align: left; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
pre { white-space: pre-wrap; margin: 0; font: inherit; }
svg text { fill: var(--ink); font-size: 13px; } svg .axis { stroke: var(--line); }
svg .interval { stroke: var(--bar); stroke-width: 3; } svg .dot { fill: var(--bar); }
"""
LABEL_WIDTH, PLOT_WIDTH, ROW_HEIGHT, NUMBER_WIDTH = 220, 400, 26, 180


def render_html(report: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> str:
    """The page. `predictions` are those of the job's own student, as the REST API gives them."""
    record = Report.model_validate(report)
    body = "\n".join(_iter_sections(record, report, predictions))
    title = escape(f"Report of {record.job_id}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )


def _iter_sections(
    record: Report, report: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    if record.advice:
        yield f'<p class="advice">{escape(record.advice)}</p>'
    rows, where = (record.test, "test") if record.test else (record.validation, "validation")
    yield f"<h2>Accuracy on {where} questions</h2>"
    yield _draw_accuracies(rows)
    yield (
        '<p class="soft">The line is the 95 % Wilson interval of one student; its row names how '
        "many questions were asked.</p>"
    )
    yield _make_table(
        ACCURACY_COLUMNS,
        list(iter_accuracy_cells(choose_rows(report)[1])),
        caption="What each row took; compute is in units of the job's own method.",
        numbers=range(1, len(ACCURACY_COLUMNS)),
    )
    yield _make_table(
        ("what", "found"), [(title, told) for title, told in list_findings(report)], caption=""
    )
    if record.classes is not None:
        yield from _iter_class_sections(record.classes)
    yield from _iter_prediction_sections(record, predictions)
    counts = count_rationales(report)
    yield "<h2>The teacher's rationales</h2>"
    yield _make_table(
        tuple(counts), [[f"{n:,}" for n in counts.values()]], caption="", numbers=range(len(counts))
    )
    yield "<h2>What it took</h2>"
    seconds = "  ".join(f"{stage} {value:.0f} s" for stage, value in record.seconds.items())
    took = [("Teacher", format_usage(report)), ("Time", seconds), ("Seed", str(record.seed))]
    if record.judge:
        took.insert(1, ("Judge", format_judge_health(record.judge)))
    took += [("Note", note) for note in record.notes]
    yield _make_table(("what", ""), took, caption="")
    yield f"<h2>The student, {escape(record.model.id)}</h2>"
    yield f"<pre>{escape(chr(10).join(list_next_commands(report)))}</pre>"


def _draw_accuracies(rows: Mapping[str, Accuracy]) -> str:
    """A dot with its interval for each row, on a scale from 0 to 1."""
    width = LABEL_WIDTH + PLOT_WIDTH + NUMBER_WIDTH
    height = ROW_HEIGHT * len(rows) + 24
    parts = []
    for tick in range(0, 11, 2):
        x = LABEL_WIDTH + PLOT_WIDTH * tick / 10
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{height - 20}"/>')
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="middle">{tick / 10:g}</text>')
    for place, (name, row) in enumerate(rows.items()):
        y = ROW_HEIGHT * (place + 0.5)
        low, high, middle = (
            LABEL_WIDTH + PLOT_WIDTH * value for value in (row.low, row.high, row.accuracy)
        )
        title = escape(METHOD_TITLES.get(name, name))
        parts += [
            f'<text x="0" y="{y + 5}">{title}</text>',
            f'<line class="interval" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="dot" cx="{middle:.1f}" cy="{y}" r="5"/>',
            f'<text x="{LABEL_WIDTH + PLOT_WIDTH + 12}" y="{y + 5}">{row.accuracy:.3f} '
            f"[{row.low:.3f}, {row.high:.3f}] of {row.n:,}</text>",
        ]
    return (
        f'<div class="wide"><svg role="img" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>Accuracies</title>{"".join(parts)}</svg></div>'
    )


def _iter_class_sections(classes: ClassReport) -> Iterator[str]:
    yield "<h2>By label</h2>"
    yield _make_table(
        ("label", "questions", "right", "share", "answered"),
        [
            (row.label, f"{row.n:,}", f"{row.right:,}", f"{row.right / row.n:.2f}", row.answered)
            for row in classes.classes
        ],
        caption="The lowest share first; `answered` counts the label over all questions.",
        numbers=range(1, 5),
    )
    if classes.confusions:
        yield _make_table(
            ("label", "answered as", "times"),
            [(row.gold, row.answer or "(unreadable)", row.n) for row in classes.confusions],
            caption="Wrong answers, the most frequent first.",
            numbers=(2,),
        )


def _iter_prediction_sections(
    record: Report, predictions: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    wrong = [one for one in predictions if not one["right"]]
    teacher_only = [one for one in wrong if one["teacher_right"]]
    others = [one for one in wrong if not one["teacher_right"]]
    right = [one for one in predictions if one["right"]][:10]
    for heading, found in (
        ("Its teacher is right and the student is not", teacher_only),
        ("Other wrong answers", others),
        ("Right answers, the first ten", right),
    ):
        if not found:
            continue
        yield f"<h2>{heading}: {len(found):,}</h2>" if found is not right else f"<h2>{heading}</h2>"
        yield _make_table(
            ("question", "gold", "student", "confidence", "teacher", "the student's output"),
            [
                (
                    one["question"] or one["question_id"],
                    one["gold"],
                    one["answer"] or "(unreadable)",
                    "" if one["confidence"] is None else f"{one['confidence']:.2f}",
                    one["teacher_answer"] or "",
                    one["text"],
                )
                for one in found[:MAX_SHOWN]
            ],
            caption=""
            if len(found) <= MAX_SHOWN
            else f"The first {MAX_SHOWN}; all: qcrd jobs predictions {record.job_id} --wrong",
            numbers=(3,),
        )


def _make_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    numbers: Iterable[int] = (),
) -> str:
    right = set(numbers)

    def cell(tag: str, place: int, value: object) -> str:
        kind = ' class="n"' if place in right else ""
        return f"<{tag}{kind}><pre>{escape(str(value))}</pre></{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(heads))
    lines = ["".join(cell("td", i, value) for i, value in enumerate(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f'<div class="wide"><table>{told}<tr>{head}</tr>{body}</table></div>'
