"""A job's file of predictions: what each row's student says to each test question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from qcrd.method.prompts import format_question
from qcrd.records.rationales import Prediction, TestItem
from qcrd.records.specs.task import TaskSpec


def list_predictions(
    test: Sequence[TestItem], task: TaskSpec, by_method: Mapping[str, Sequence[Prediction]]
) -> Iterator[Prediction]:
    """Row by row, with the question and its teacher's answer beside each."""
    for method, predictions in by_method.items():
        for item, prediction in zip(test, predictions, strict=True):
            yield prediction.model_copy(
                update={
                    "method": method,
                    "question": format_question(task, item.question),
                    "teacher_answer": item.teacher_answer,
                    "teacher_asked": item.teacher_asked,
                }
            )
