"""A study's table as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcrd.records.study import StudyComparison, StudyRow, StudyTable


def markdown(table: StudyTable) -> str:
    """Two tables and the notes. Accuracies are shares in [0, 1], with 95 % intervals."""
    asked = f", {table.questions:,} questions" if table.questions else ""
    parts = [f"Accuracy on {table.measured}{asked}; mean over seeds, 95 % interval", _means(table)]
    compared = [(row.method, row.comparison) for row in table.rows if row.comparison]
    if compared:
        parts += [
            f"Against {table.baseline}: mean difference over the seeds, 95 % interval over "
            "questions, p of the paired bootstrap, corrected for their number (Holm)",
            _differences(compared),
            "McNemar's exact test per seed: questions that only the method, and only the "
            "baseline, got right",
            _by_seed(compared),
        ]
    parts += [f"- {note}" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _means(table: StudyTable) -> str:
    compute = _reference_flops(table)
    rows = [_mean(row, compute) for row in table.rows]
    rows += [
        [name, "", f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}", "", "", "", "", ""]
        for name, one in table.references.items()
    ]
    names = "method,seeds,accuracy,interval,by seed,validation,steps,compute,seconds".split(",")
    return _grid(names, rows)


def _reference_flops(table: StudyTable) -> float | None:
    return next((row.flops for row in table.rows if row.method == table.baseline), None)


def _mean(row: StudyRow, compute: float | None) -> list[str]:
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
        f"{row.flops / compute:.2f} ×" if row.flops and compute else "",
        "" if row.seconds is None else f"{row.seconds:,.0f}",
    ]


def _differences(compared: Sequence[tuple[str, StudyComparison]]) -> str:
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
        for method, one in compared
    ]
    return _grid("method,seeds,difference,interval,p,p (Holm),shown".split(","), rows)


def _by_seed(compared: Sequence[tuple[str, StudyComparison]]) -> str:
    rows = [
        [
            method,
            str(test.seed),
            str(test.only_method),
            str(test.only_baseline),
            f"{test.p:.2g}",
            f"{test.p_holm:.2g}",
        ]
        for method, one in compared
        for test in one.by_seed
    ]
    return _grid("method,seed,only method,only baseline,p,p (Holm)".split(","), rows)


def _grid(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells padded to their column's width, so that it reads as a table before it is rendered."""
    lines = [list(names), *map(list, rows)]
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(names))]
    # The first column is words, the others numbers.
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]])
