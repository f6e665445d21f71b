"""The sentence at the top of a report: what to do with the student."""

from __future__ import annotations

from qcrd.records.job import Report
from qcrd.records.reports.accuracy import Comparison
from qcrd.records.specs.spec import Baseline

FINETUNED = (Baseline.FINETUNE_EQUAL_COMPUTE, Baseline.FINETUNE)
"""Rows that need no rationales, the fairer one first."""
MIN_TIMED_REQUESTS = 10
"""Fewest requests whose answers a second say how fast a teacher is."""
MAX_P = 0.05


def give_advice(report: Report, method: str) -> str:
    """Of what is measured on the test questions: this student against guessing, against one that
    needed no teacher, and against the teacher. Two students are told apart by McNemar's exact test;
    of the methods that trained them one pair tells nothing (docs/decisions/0019-verdicts.md)."""
    student = report.test.get(method)
    if student is None:
        return (
            "No test file was given, so nothing says what this student is worth: name one in "
            "`test_file`."
        )
    if (guessing := _find_guessing(report, method)) is not None:
        return (
            f"Do not use this student: {student.accuracy:.3f} of {student.n:,} test questions "
            f"[{student.low:.3f}, {student.high:.3f}] is no better than always saying the most "
            f"frequent label ({guessing:.3f})."
        )
    beside = next(
        (row for name in FINETUNED for row in report.comparisons if row.baseline == name), None
    )
    if beside is not None and _find_guessing(report, beside.baseline) is not None:
        told = _advise_against_teacher(report, "Use this student")
        return f"{told} Plain finetuning is no better than the most frequent label here."
    if method in FINETUNED or beside is None:
        told = _advise_against_teacher(report, "Use this student")
        if method in FINETUNED:
            return told
        return (
            f"{told} No finetuned student was trained beside it (`baselines`), so nothing says "
            "whether the teacher's rationales were needed."
        )
    kind = "equal compute" if beside.baseline == FINETUNED[0] else "equal steps"
    if _is_worse(beside):
        return (
            f"Use plain finetuning: it answers more questions right here ({_tell(beside)}, at "
            f"{kind})."
        )
    if not _is_better(beside):
        return (
            f"Finetuning does as well here as far as {beside.n:,} questions can tell "
            f"({_tell(beside)}, at {kind}): use it, unless you want this student's explanations."
        )
    told = _advise_against_teacher(report, "Use this student")
    return f"{told} Plain finetuning answers fewer questions right ({_tell(beside)}, at {kind})."


def _find_guessing(report: Report, row: str) -> float | None:
    """The accuracy of always saying the most frequent label, where the row is no better."""
    guessing, found = report.test.get("majority_class"), report.test.get(row)
    if guessing is None or found is None or found.low > guessing.accuracy:
        return None
    return guessing.accuracy


def _advise_against_teacher(report: Report, use: str) -> str:
    row, speed = report.against_teacher, _tell_speed(report)
    if row is None:
        return f"{use} if its accuracy is enough: the teacher was asked no test question."
    if _is_better(row):
        told = f"{use} in its teacher's place: it answers more questions right ({_tell(row)})"
    elif not _is_worse(row):
        told = f"{use} in its teacher's place: they cannot be told apart ({_tell(row)})"
    else:
        told = (
            f"{use} where its teacher is too slow or too dear: the teacher answers more questions "
            f"right ({_tell(row)}; `evaluation.fallback` hands it the doubtful ones)"
        )
    return f"{told}{speed}."


def _tell(row: Comparison) -> str:
    return (
        f"{100 * row.difference:+.1f} points for this student "
        f"[{100 * row.low:+.1f}, {100 * row.high:+.1f}], McNemar p = {row.p:.2g}"
    )


def _is_better(row: Comparison) -> bool:
    return row.difference > 0 and row.p < MAX_P


def _is_worse(row: Comparison) -> bool:
    return row.difference < 0 and row.p < MAX_P


def _tell_speed(report: Report) -> str:
    """Of this machine's batches against the teacher's requests, if both were measured."""
    student, teacher = report.student_serving, report.teacher_serving
    if student is None or teacher is None:
        return ""
    times = max(teacher.timed, key=lambda each: each.concurrency, default=teacher.times)
    if times is None or times.requests < MIN_TIMED_REQUESTS:
        return ""
    ratio = student.batched_per_second / times.per_second
    asked = "" if teacher.timed else " in this run"
    return (
        f", and in batches on its trainer's machine gives {ratio:.2g} times as many answers a "
        f"second as the teacher{asked}"
    )
