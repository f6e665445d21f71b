"""Cells of the tables that the terminal and the page of a report share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qcrd.records.reports.answering import AnsweringReport

METHOD_TITLES = {
    "teacher": "teacher",
    "majority_class": "majority class",
    "finetune": "finetuning, equal steps",
    "finetune_equal_compute": "finetuning, equal compute",
    "single_task": "rationales, single task",
    "dss": "distilling step-by-step",
    "dss+positives": "DSS, all positives",
    "dss+positives+negatives": "DSS, with negatives",
    "qcrd": "QCRD",
    "greedy": "its greedy answer",
    "vote": "vote of its outputs",
    "best_of": "best of its outputs, by the judge",
    "weighted": "its outputs weighted by the judge",
}
"""Titles of the known rows, in their order; other rows follow under their names."""
CHOSEN_TITLES = {"vote": "vote", "best_of": "judge's best", "weighted": "weighted vote"}
"""Rows of one student's outputs, before their number."""
MAIN_METHODS = ("qcrd", "dss", "single_task", "finetune")
ACCURACY_COLUMNS = (
    *("method", "accuracy", "95 % interval", "n", "steps", "tokens"),
    *("compute", "seconds", "tokens an answer"),
)


def choose_rows(report: Mapping[str, Any]) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The title and the rows of the accuracies: of test questions where there are some, with the
    votes and choices among one student's outputs."""
    if not report["test"]:
        return "Validation accuracy", report.get("validation") or {}
    answering = AnsweringReport.model_validate(report.get("answering") or {})
    chosen = {
        f"{CHOSEN_TITLES.get(name, name)} of {answering.samples}": row.model_dump()
        for name, row in answering.rows.items()
    }
    return "Test accuracy", report["test"] | chosen


def iter_accuracy_cells(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """The rows of a table of accuracies with 95 % intervals, by `ACCURACY_COLUMNS`; compute is
    relative to the job's own method."""
    reference = next((rows[m].get("flops") for m in MAIN_METHODS if m in rows), None)
    ordered = [name for name in METHOD_TITLES if name in rows] + [
        r for r in rows if r not in METHOD_TITLES
    ]
    for name in ordered:
        row = rows[name]
        flops = row.get("flops")
        yield (
            METHOD_TITLES.get(name, name),
            f"{row['accuracy']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            str(row["n"]),
            "" if row.get("steps") is None else f"{row['steps']:,}",
            "" if row.get("tokens") is None else f"{row['tokens']:,}",
            f"{flops / reference:.2f} ×" if flops and reference else "",
            "" if row.get("seconds") is None else f"{row['seconds']:.0f}",
            "" if row.get("answer_tokens") is None else f"{row['answer_tokens']:.1f}",
        )


def count_rationales(report: Mapping[str, Any]) -> dict[str, int]:
    """What became of a job's teacher outputs, by the words of a table's head."""
    found: Mapping[str, int | None] = report["rationales"]
    # What the teacher took is told below it.
    counts = {name: n for name, n in found.items() if n is not None and name != "teacher_tokens"}
    # Without gold labels nothing says which votes are right.
    of_gold = ("majority_right", "majority_wrong")
    if not any(counts.get(name) for name in of_gold):
        counts = {name: value for name, value in counts.items() if name not in of_gold}
    return {name.replace("_", " "): n for name, n in counts.items()}
