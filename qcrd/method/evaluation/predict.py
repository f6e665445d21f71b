"""Predicts the test questions and compares answers with gold labels in canonical form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from qcrd.method.answers import canonical
from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.method.prompts import PREDICT_PREFIX, format_question
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target
from qcrd.records.rationales import Prediction, Question
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.specs.task import TaskSpec
from qcrd.records.students.prompt_format import split_joined_output


def predict(
    student: Student,
    questions: Sequence[Question],
    golds: Sequence[str],
    task: TaskSpec,
    *,
    max_new_tokens: int,
    prefix: str = PREDICT_PREFIX,
    joined: bool = False,
    options: Sequence[str] = (),
    beginnings: Sequence[Target] = (),
    temperature: float = 0.0,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """Answers under the task of `prefix`, greedy by default. `golds` are canonical; `joined`
    students explain first, and what follows their last answer mark counts, which is one of the
    `options` where there are any. `beginnings` are what outputs begin with; `check` runs before
    each batch."""
    outputs = student.sample(
        [prefix + format_question(task, question) for question in questions],
        max_new_tokens=max_new_tokens,
        options=options,
        beginnings=beginnings,
        temperature=temperature,
        seed=seed,
        answers="marked" if joined else "all",
        check=check,
    )
    predictions = []
    for question, gold, output in zip(questions, golds, outputs, strict=True):
        answer_text = split_joined_output(output.text)[1] if joined else output.text
        answer = canonical(answer_text, task, question)
        predictions.append(
            Prediction(
                question_id=question.id,
                text=output.text,
                answer=answer,
                gold=gold,
                right=answer == gold,
                answer_logprob=output.answer_logprob,
                tokens=output.n_tokens,
            )
        )
    return predictions


def accuracy(predictions: Sequence[Prediction]) -> Accuracy:
    return wilson_interval(sum(p.right for p in predictions), len(predictions))


def majority_class_accuracy(train_golds: Sequence[str], test_golds: Sequence[str]) -> Accuracy:
    """The test accuracy of always answering the training set's most frequent label."""
    (label, _), *_ = sorted(Counter(train_golds).items(), key=lambda pair: (-pair[1], pair[0]))
    return wilson_interval(sum(gold == label for gold in test_golds), len(test_golds))
