"""Print a job's report as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcrd.cli.output.report_cells import (
    ACCURACY_COLUMNS,
    METHOD_TITLES,
    choose_rows,
    count_rationales,
    iter_accuracy_cells,
)
from qcrd.records.reports.accuracy import Comparison
from qcrd.records.reports.answering import AnsweringReport
from qcrd.records.reports.classes import ClassReport
from qcrd.records.reports.doubt import CascadeReport, DoubtReport
from qcrd.records.reports.serving import CostReport, StudentServing, TeacherServing
from qcrd.records.reports.verdicts import describe_one_seed

NEGATIVE_SOURCE_TITLES = {
    "teacher_minority": "of the teacher's minority",
    "student_lag": "of the student's samples",
    "fixed": "of the untrained student's samples",
}
"""The source of a held-out negative."""
SHOWN_CLASSES = 5
"""Labels of the terminal's table; the HTML page has all."""


def show_report(console: Console, report: Mapping[str, Any]) -> None:
    if report.get("advice"):
        console.print(f"[bold]{escape(report['advice'])}[/]", soft_wrap=True)
    title, rows = choose_rows(report)
    if rows:
        console.print(make_accuracy_table(title, rows))
    for title, told in list_findings(report):
        console.print(f"[bold]{title:<11}[/] {escape(told)}")
    if report.get("classes"):
        _show_classes(console, ClassReport.model_validate(report["classes"]))
    console.print(_make_count_table("Rationales", count_rationales(report)))
    if report.get("judge"):
        console.print(f"[bold]Judge[/]       {escape(format_judge_health(report['judge']))}")
    console.print(f"[bold]Teacher[/]     {escape(format_usage(report))}")
    seconds = "  ".join(f"{stage} {value:.0f} s" for stage, value in report["seconds"].items())
    console.print(f"[bold]Time[/]        {escape(seconds)}")
    for note in report.get("notes", ()):
        console.print(f"[bold]Note[/]        {escape(note)}")


def list_findings(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Titles and sentences of what was measured besides accuracies."""
    if teacher := report.get("against_teacher"):
        yield "Compared", format_comparison(Comparison.model_validate(teacher))
    comparisons = [Comparison.model_validate(row) for row in report.get("comparisons") or ()]
    for one in comparisons:
        yield "Compared", format_comparison(one)
    if comparisons:
        yield "Methods", describe_one_seed(one.seeds_needed for one in comparisons)
    yield from _list_serving(report)
    if (share := report.get("untrained_share")) is not None:
        yield (
            "Negatives",
            f"{share:.0%} of the training, weighted by its learning rate, "
            "learned from samples of the untrained student",
        )
    if leak := report.get("leak"):
        yield "Leak", format_leaks(leak)
    for row, use in (report.get("rationale_use") or {}).items():
        yield "Explained", format_rationale_use(row, use)
    yield from _list_doubts(report)


def _list_serving(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What answering takes of both, and the questions that only the teacher answers rightly."""
    teacher = TeacherServing.model_validate(report.get("teacher_serving") or {})
    for times in teacher.timed or filter(None, [teacher.times]):
        yield "Teacher", times.statement
    if report.get("student_serving"):
        student = StudentServing.model_validate(report["student_serving"])
        yield "Student", student.statement
    if report.get("costs"):
        yield "Cost", CostReport.model_validate(report["costs"]).statement
    if missed := report.get("teacher_only"):
        method = (report.get("against_teacher") or {}).get("method")
        row = f" --method {method}" if method else ""
        yield (
            "Missed",
            f"the teacher is right and the student is not on {missed:,} test questions: "
            f"qcrd jobs predictions {report['job_id']}{row} --wrong --teacher-right",
        )


def _list_doubts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the student's answers rest on."""
    answering = AnsweringReport.model_validate(report.get("answering") or {})
    if answering.swap is not None:
        yield "Reasoning", answering.swap.statement
    for one in answering.comparisons:
        yield "Outputs", format_comparison(one)
    if answering.judged is not None:
        yield "Judged", answering.judged.statement
    if doubt := report.get("doubt"):
        yield "Confidence", DoubtReport.model_validate(doubt).statement
    if cascade := report.get("cascade"):
        yield "Cascade", CascadeReport.model_validate(cascade).statement


def _show_classes(console: Console, report: ClassReport) -> None:
    """With what they are mostly taken for."""
    table = Table(title="Labels with the lowest share right", title_justify="left")
    for name in ("label", "questions", "right", "mostly taken for"):
        table.add_column(name, justify="left" if name in ("label", "mostly taken for") else "right")
    for row in report.classes[:SHOWN_CLASSES]:
        if row.right < row.n:
            taken = next((c for c in report.confusions if c.gold == row.label), None)
            told = "" if taken is None else f"{taken.answer or '(unreadable)'} ({taken.n:,})"
            table.add_row(escape(row.label), f"{row.n:,}", f"{row.right:,}", escape(told))
    if table.row_count:
        console.print(table)


def format_comparison(comparison: Comparison) -> str:
    """Two students: the difference, its interval over questions, who answers more right."""
    return (
        f"{METHOD_TITLES.get(comparison.method, comparison.method)} against "
        f"{METHOD_TITLES.get(comparison.baseline, comparison.baseline)}: "
        f"{comparison.difference:+.3f} [{comparison.low:+.3f}, {comparison.high:+.3f}] on "
        f"{comparison.n:,} questions: {comparison.statement}"
    )


def format_rationale_use(method: str, use: Mapping[str, int]) -> str:
    """What a row's student makes of its own rationales."""
    parts = [
        f"{METHOD_TITLES.get(method, method)}: with its own rationale below the question "
        f"{use['given_right']:,} of {use['given']:,} labels are right, without it "
        f"{use['right_without']:,}; {use['given_same']:,} are the same"
    ]
    if too_long := use["questions"] - use["given"]:
        parts.append(f"{too_long:,} questions are too long with it")
    named = f"{use['named']:,} rationales name an answer by themselves"
    if use["named"]:
        named += (
            f": {use['named_same']:,} the student's label, {use['named_right']:,} the right one"
        )
    return ". ".join([*parts, named])


def format_leaks(leak: Mapping[str, int | None]) -> str:
    told = (
        f"{leak['n_leaked']:,} of {leak['n_test']:,} test questions repeat a training story under "
        f"other numbers, {leak['n_exact']:,} of them word for word"
    )
    near = leak.get("n_near")
    return told if near is None else f"{told}; {near:,} are nearly the same as a training question"


def format_judge_health(health: Mapping[str, float]) -> str:
    """AUC on held-out questions and the number of rationales, by source of negative."""
    scores = []
    for prefix, when, negatives in (
        ("pretrained_", "after pretraining", "of the teacher's minority"),
        ("", "at the end", "of the student's samples"),
    ):
        if f"{prefix}auc" in health:
            by_source = _format_by_source(health, prefix)
            scores.append(
                f"AUC {health[f'{prefix}auc']:.2f} {when} "
                f"({health[f'{prefix}positives']:.0f} positives, "
                f"{by_source or _format_count(health[f'{prefix}negatives'], negatives)})"
            )
    parts = [", ".join(scores) or "no held-out negatives to measure it on"]
    if health.get("pretrained_questions_with_real_negatives") == 0:
        parts.append("pretrained without any wrong teacher output, on corrupted texts alone")
    if "brier" in health:
        parts.append(f"Brier score {health['brier']:.2f}, calibration error {health['ece']:.2f}")
    if health.get("alarm_negatives") == 0 and "auc" in health:
        parts.append("too few held-out rationales to raise an alarm")
    return "; ".join(parts)


def _format_by_source(health: Mapping[str, float], prefix: str) -> str:
    """`40 of the student's samples`; each source with its AUC where there are several."""
    names = [name for name in NEGATIVE_SOURCE_TITLES if f"{prefix}n_{name}" in health]
    parts = [
        _format_count(health[f"{prefix}n_{name}"], NEGATIVE_SOURCE_TITLES[name]) for name in names
    ]
    if len(names) > 1:
        parts = [
            f"{count}: AUC {health[f'{prefix}auc_{name}']:.2f}"
            for count, name in zip(parts, names, strict=True)
        ]
    return ", ".join(parts)


def _format_count(n: float, label: str) -> str:
    return f"{n:.0f} {label}"


def show_next_steps(console: Console, report: Mapping[str, Any]) -> None:
    console.print(f"[bold]Model[/]       {escape(report['model']['id'])}")
    for command in list_next_commands(report):
        console.print(f"  {escape(command)}")


def list_next_commands(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Commands that use the published student."""
    model = report["model"]["id"]
    return f"qcrd models chat {model} --explain", f"qcrd models download {model} --to student"


def make_accuracy_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ACCURACY_COLUMNS:
        table.add_column(name, justify="left" if name == "method" else "right")
    for cells in iter_accuracy_cells(rows):
        table.add_row(*map(escape, cells))
    return table


def _make_count_table(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in counts:
        table.add_column(escape(name), justify="right")
    table.add_row(*(f"{value:,}" for value in counts.values()))
    return table


def format_usage(report: Mapping[str, Any]) -> str:
    """The teacher tokens of a job, and why there are none."""
    counts, tokens = report["rationales"], report["usage"]
    prompt, completion = tokens["teacher_prompt_tokens"], tokens["teacher_completion_tokens"]
    reused = counts.get("reused", 0)
    if not prompt and not completion and tokens.get("uncertain"):
        return f"0 teacher tokens, {format_uncertain_usage(tokens)}"
    if not prompt and not completion and reused:
        return f"all {reused:,} teacher outputs were reused: 0 teacher tokens"
    if not prompt and not completion:
        return "not asked: 0 teacher tokens"
    text = f"{prompt:,} prompt tokens and {completion:,} completion tokens"
    if tokens.get("uncertain"):
        text += f", {format_uncertain_usage(tokens)}"
    return f"{text}; {reused:,} outputs were reused" if reused else text


def format_uncertain_usage(usage: Mapping[str, Any]) -> str:
    """The teacher tokens that may have been spent besides."""
    text = f"up to {usage['uncertain']:,} more uncertain (requests that broke off)"
    return f"{text}, partly estimated" if usage.get("estimated") else text
