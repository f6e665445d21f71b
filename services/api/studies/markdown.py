"""A study's table as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcrd.records.reports.verdicts import MIN_SEEDS, format_seeds_needed
from qcrd.records.study import SeedAccuracy, StudyComparison, StudyRow, StudyTable


def render_markdown(table: StudyTable) -> str:
    """The accuracies, the verdicts, what stands beside them, and the notes.

    Accuracies are shares in [0, 1], with 95 % intervals.
    """
    question_count = f", {table.questions:,} questions" if table.questions else ""
    parts = [
        f"Accuracy on {table.measured}{question_count}; mean over seeds, 95 % interval",
        _render_accuracies(table),
    ]
    comparisons = [(row.method, row.comparison) for row in table.rows if row.comparison]
    if comparisons:
        parts += [
            _explain_verdicts(table),
            _render_verdicts(comparisons, _format_margin(table)),
            "Beside it, deciding nothing: a bootstrap that draws both seeds and questions anew, "
            "95 % interval and p",
            _render_bootstraps(comparisons),
            "and McNemar's exact test of each seed's two students: questions that only the "
            "method's, and only the baseline's, answered right",
            _render_mcnemar_tests(comparisons),
        ]
    if measured := [row for row in table.rows if _has_measures(row)]:
        parts += [
            "What the students make of rationales, mean over seeds: accuracy of the label behind "
            "their own; cross entropy of held-back wrong rationales of the teacher less that of "
            "right ones, nats per token; share of the questions in which eq. 7 acts",
            _render_rationale_measures(measured),
        ]
    parts += [f"- {note}" for note in table.notes]
    return "\n\n".join(parts) + "\n"


def _render_accuracies(table: StudyTable) -> str:
    reference_flops = _get_reference_flops(table)
    rows = [_format_accuracy_cells(row, reference_flops) for row in table.rows]
    rows += [
        [name, "", f"{one.accuracy:.3f}", f"{one.low:.3f} to {one.high:.3f}", *[""] * 7]
        for name, one in table.references.items()
    ]
    headers = [
        *("method", "seeds", "accuracy", "interval", "by seed", "validation"),
        *("steps", "tokens", "compute", "seconds", "teacher tokens"),
    ]
    return _render_table(headers, rows)


def _render_rationale_measures(rows: Sequence[StudyRow]) -> str:
    headers = ["method", "given own rationale", "gap of wrong and right", "negatives in force"]
    return _render_table(headers, [_format_measures(row) for row in rows])


def _format_measures(row: StudyRow) -> list[str]:
    return [
        row.method,
        "" if row.given_rationale is None else f"{row.given_rationale:.3f}",
        "" if row.rationale_gap is None else f"{row.rationale_gap:+.3f}",
        "" if row.in_force_share is None else f"{row.in_force_share:.2f}",
    ]


def _has_measures(row: StudyRow) -> bool:
    return any(cell for cell in _format_measures(row)[1:])


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
        ", ".join(map(_format_seed, row.by_seed)),
        "" if row.validation is None else f"{row.validation:.3f}",
        "" if row.steps is None else f"{row.steps:,.0f}",
        "" if row.tokens is None else f"{row.tokens:,.0f}",
        f"{row.flops / reference_flops:.2f} ×" if row.flops and reference_flops else "",
        "" if row.seconds is None else f"{row.seconds:,.0f}",
        "" if row.teacher_tokens is None else f"{row.teacher_tokens:,.0f}",
    ]


def _format_seed(one: SeedAccuracy) -> str:
    trial = "" if one.trial is None else f" (trial {one.trial})"
    return f"{one.seed}: {one.accuracy:.3f}{trial}"


def _explain_verdicts(table: StudyTable) -> str:
    margin = _format_margin(table)
    count = sum(row.method != table.baseline for row in table.rows)
    corrected = f", corrected for the {count} methods (Holm)" if count > 1 else ""
    return (
        f"Verdicts on the methods against {table.baseline}, on these questions, by the paired t "
        f"test over seeds (5 %{corrected}):\n\n"
        "- better, worse: it finds a difference\n"
        f"- no difference: it finds less than {margin} of one\n"
        f"- cannot tell: it finds neither, or there are fewer than {MIN_SEEDS} seeds. As many as "
        f"are needed find a true difference of {margin} in 80 % of studies"
    )


def _format_margin(table: StudyTable) -> str:
    return f"{100 * table.equivalence_margin:g} points"


def _render_verdicts(comparisons: Sequence[tuple[str, StudyComparison]], margin: str) -> str:
    headers = [
        *("method", "seeds", "difference", "95 % over seeds", "p", "p (Holm)"),
        *(f"p of {margin} or more (Holm)", "verdict", "seeds needed"),
    ]
    return _render_table(headers, [_format_verdict_cells(*one) for one in comparisons])


def _format_verdict_cells(method: str, comparison: StudyComparison) -> list[str]:
    test, is_tested = comparison.over_seeds, len(comparison.seeds) >= MIN_SEEDS
    return [
        method,
        str(len(comparison.seeds)),
        f"{comparison.difference:+.3f}",
        f"{test.low:+.3f} to {test.high:+.3f}" if test else "",
        f"{test.p:.2g}" if test else "",
        f"{test.p_holm:.2g}" if test and is_tested else "",
        f"{test.equivalence_p_holm:.2g}" if test and is_tested else "",
        comparison.verdict,
        format_seeds_needed(comparison.seeds_needed),
    ]


def _render_bootstraps(comparisons: Sequence[tuple[str, StudyComparison]]) -> str:
    rows = [
        [method, f"{one.low:+.3f} to {one.high:+.3f}", f"{one.p:.2g}", f"{one.p_holm:.2g}"]
        for method, one in comparisons
    ]
    return _render_table(["method", "interval", "p", "p (Holm)"], rows)


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
