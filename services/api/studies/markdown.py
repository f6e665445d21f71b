"""A study's table as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcrd.records.study import StudyComparison, StudyRow, StudyTable


def render_markdown(table: StudyTable) -> str:
    """Two tables and the notes. Accuracies are shares in [0, 1], with 95 % intervals."""
    question_count = f", {table.questions:,} questions" if table.questions else ""
    parts = [
        f"Accuracy on {table.measured}{question_count}; mean over seeds, 95 % interval",
        _render_accuracies(table),
    ]
    comparisons = [(row.method, row.comparison) for row in table.rows if row.comparison]
    if comparisons:
        parts += [
            f"Against {table.baseline}: mean difference over the seeds, 95 % interval over "
            "questions, p of the paired bootstrap, corrected for their number (Holm)",
            _render_differences(comparisons),
            "McNemar's exact test per seed: questions that only the method, and only the "
            "baseline, got right",
            _render_mcnemar_tests(comparisons),
        ]
    parts += [f"- {note}" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _render_accuracies(table: StudyTable) -> str:
    reference_flops = _get_reference_flops(table)
    rows = [_format_accuracy_cells(row, reference_flops) for row in table.rows]
    rows += [
        [name, "", f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}", "", "", "", "", ""]
        for name, one in table.references.items()
    ]
    headers = "method,seeds,accuracy,interval,by seed,validation,steps,compute,seconds".split(",")
    return _render_table(headers, rows)


def _get_reference_flops(table: StudyTable) -> float | None:
    return next((row.flops for row in table.rows if row.method == table.baseline), None)


def _format_accuracy_cells(row: StudyRow, reference_flops: float | None) -> list[str]:
    interval = ""
    if row.low is not None and row.high is not None:
        kind = " (Wilson)" if row.interval == "wilson" else ""
        interval = f"{row.low:.3f} to {row.high:.3f}{kind}"
    return [
        row.method,
        f"{row.n} of {row.of}",
        "" if row.accuracy is None else f"{row.accuracy:.3f}",
        interval,
        ", ".join(f"{one.seed}: {one.accuracy:.3f}" for one in row.by_seed),
        "" if row.validation is None else f"{row.validation:.3f}",
        "" if row.steps is None else f"{row.steps:,.0f}",
        f"{row.flops / reference_flops:.2f} ×" if row.flops and reference_flops else "",
        "" if row.seconds is None else f"{row.seconds:,.0f}",
    ]


def _render_differences(comparisons: Sequence[tuple[str, StudyComparison]]) -> str:
    rows = [
        [
            method,
            str(len(one.seeds)),
            f"{one.difference:+.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}",
            f"{one.p:.2g}",
            f"{one.p_holm:.2g}",
            one.verdict,
        ]
        for method, one in comparisons
    ]
    return _render_table("method,seeds,difference,interval,p,p (Holm),shown".split(","), rows)


def _render_mcnemar_tests(comparisons: Sequence[tuple[str, StudyComparison]]) -> str:
    rows = [
        [
            method,
            str(test.seed),
            str(test.only_method),
            str(test.only_baseline),
            f"{test.p:.2g}",
            f"{test.p_holm:.2g}",
        ]
        for method, one in comparisons
        for test in one.by_seed
    ]
    return _render_table("method,seed,only method,only baseline,p,p (Holm)".split(","), rows)


def _render_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells padded to their column's width, so that it reads as a table before it is rendered."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(headers))]
    # The first column is words, the others numbers.
    separator = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], separator, *padded[1:]])
