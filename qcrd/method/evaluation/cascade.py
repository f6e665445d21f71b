"""A cascade: the student answers where it is sure, its teacher everywhere else."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.records.rationales import Prediction
from qcrd.records.reports.doubt import CascadeReport

MIN_KEPT = 100
"""Validation questions above a threshold: fewer say too little of what the student keeps."""


def choose_threshold(
    predictions: Sequence[Prediction], votes: Sequence[str | None], *, teacher: str, wanted: float
) -> CascadeReport:
    """The lowest confidence from which on the student agrees with the teacher's votes as `wanted`,
    by the lower bound of a 95 % interval, on validation `predictions` with their confidence."""
    report = CascadeReport(teacher=teacher, wanted=wanted, threshold=None)
    pairs = [
        (prediction.confidence or 0.0, prediction.answer == vote)
        for prediction, vote in zip(predictions, votes, strict=True)
        if vote is not None
    ]
    if len(pairs) < MIN_KEPT:
        told = f"{len(pairs)} validation questions have a vote of the teacher's, and it takes "
        return report.model_copy(update={"reason": f"{told}{MIN_KEPT} above the threshold"})
    pairs.sort(key=lambda pair: -pair[0])
    found, agreeing = report, 0
    for kept, (confidence, agrees) in enumerate(pairs, 1):
        agreeing += agrees
        # Equal confidences are on one side.
        if kept < MIN_KEPT or (kept < len(pairs) and pairs[kept][0] == confidence):
            continue
        low = wilson_interval(agreeing, kept).low
        if low >= wanted:
            found = report.model_copy(
                update={
                    "threshold": confidence,
                    "validation_kept": kept,
                    "validation_agreeing": agreeing,
                    "validation_low": low,
                }
            )
    if found.threshold is None:
        told = "at no threshold with as many questions above it does the lower 95 % bound of the "
        reason = f"{told}agreement reach {wanted:g}: {agreeing} of {len(pairs)} agree"
        return report.model_copy(update={"reason": reason})
    return found


def confirm(
    report: CascadeReport,
    predictions: Sequence[Prediction],
    teacher_answers: Sequence[str | None],
    *,
    question_cost: float | None,
    currency: str | None,
) -> CascadeReport:
    """`report` with what the cascade does on test questions, all of which the teacher was asked."""
    threshold, n = report.threshold, len(predictions)
    kept = [
        threshold is not None and (prediction.confidence or 0.0) >= threshold
        for prediction in predictions
    ]
    rows = list(zip(predictions, teacher_answers, kept, strict=True))
    escalated = None if not n else 1000 * (n - sum(kept)) / n
    cost = None
    if escalated is not None and question_cost is not None:
        cost = escalated * question_cost
    return report.model_copy(
        update={
            "n": n,
            "kept": sum(kept),
            "agreeing": sum(keep and p.answer == answer for p, answer, keep in rows),
            "right": sum(p.right if keep else answer == p.gold for p, answer, keep in rows),
            "student_right": sum(p.right for p in predictions),
            "teacher_right": sum(answer == p.gold for p, answer, _ in rows),
            "escalated_per_1000": escalated,
            "cost_per_1000": cost,
            "currency": None if cost is None else currency,
        }
    )
