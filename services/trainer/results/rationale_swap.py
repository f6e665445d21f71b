"""Whether a student's answer follows from its rationale: what it answers behind another one."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qcrd.method.student.targets import reasoned_target
from qcrd.records.rationales import Prediction
from qcrd.records.reports.answering import RationaleSwap
from qcrd.records.students.prompt_format import read_own_rationale
from services.trainer.data.training_dataset import LabeledQuestions
from services.trainer.results.measuring import Asker

MAX_QUESTIONS = 128
"""Questions that are asked so, at most: each takes two more outputs."""


def measure_swap(
    asker: Asker, labeled: LabeledQuestions, predictions: Sequence[Prediction]
) -> RationaleSwap | None:
    """Answer each question behind the rationale of another one with another label, and behind none.
    `predictions` are the student's own; None where all labels are the same."""
    order = random.Random(f"{asker.schedule.seed}/swap").sample(
        range(len(predictions)), min(MAX_QUESTIONS, len(predictions))
    )
    pairs = [(i, other) for i in order if (other := _find_other(i, order, predictions)) is not None]
    if not pairs:
        return None
    asked = LabeledQuestions(
        tuple(labeled.questions[i] for i, _ in pairs), tuple(labeled.golds[i] for i, _ in pairs), ()
    )
    swapped = [reasoned_target(read_own_rationale(predictions[other].text)) for _, other in pairs]
    asker.tell(f"{len(pairs)} answers behind another question's rationale, and behind none")
    with_other = asker.answer(asked, swapped)
    without = asker.answer(asked, [reasoned_target("")] * len(pairs))
    return RationaleSwap(
        n=len(pairs),
        right_with_own=sum(predictions[i].right for i, _ in pairs),
        right_without=sum(p.right for p in without),
        right_with_other=sum(p.right for p in with_other),
    )


def _find_other(
    question: int, order: Sequence[int], predictions: Sequence[Prediction]
) -> int | None:
    """The next question in `order`, around its end, whose label is another one."""
    place = order.index(question)
    following = (*order[place + 1 :], *order[:place])
    gold = predictions[question].gold
    return next((other for other in following if predictions[other].gold != gold), None)
