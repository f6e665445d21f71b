"""A student's test answers, counted by their gold label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from qcrd.records.rationales import Prediction
from qcrd.records.reports.classes import ClassReport, ClassResult, Confusion

MAX_CLASSES = 100
MAX_CONFUSIONS = 50


def count_classes(predictions: Sequence[Prediction]) -> ClassReport | None:
    """None where there are no classes to speak of: one label, more than `MAX_CLASSES`, or labels
    that hardly ever come twice, as of arithmetic."""
    golds = Counter(prediction.gold for prediction in predictions)
    if not 1 < len(golds) <= MAX_CLASSES or 2 * len(golds) > len(predictions):
        return None
    right = Counter(p.gold for p in predictions if p.right)
    answered = Counter(p.answer for p in predictions)
    wrong = Counter((p.gold, p.answer) for p in predictions if not p.right)
    classes = [
        ClassResult(label=label, n=n, right=right[label], answered=answered[label])
        for label, n in golds.items()
    ]
    return ClassReport(
        classes=tuple(sorted(classes, key=lambda row: (row.right / row.n, row.label))),
        confusions=tuple(
            Confusion(gold=gold, answer=answer, n=n)
            for (gold, answer), n in sorted(
                wrong.items(), key=lambda pair: (-pair[1], pair[0][0], pair[0][1] or "")
            )[:MAX_CONFUSIONS]
        ),
    )
