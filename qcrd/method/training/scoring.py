"""Scores of an iteration's rationales: the judge's, or a control's, and the reference's."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.method.judge import controls
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.training import divergence
from qcrd.method.training.objectives import Objective
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import TrainingExample, make_rationale_target

EXAMPLES_PER_CALL = 64


def choose_judge(schedule: TrainingSchedule, judge: JudgeBackend | None) -> JudgeBackend | None:
    """None for a method without one; a control asks no judge whose scores it does not read."""
    if not schedule.objective.uses_judge:
        return None
    control = schedule.spec.discriminator.control
    return controls.ConstantJudge() if control in ("constant", "gold") else judge


def score_rationales(
    judge: JudgeBackend,
    schedule: TrainingSchedule,
    iteration: int,
    examples: Sequence[TrainingExample],
) -> dict[str, float]:
    """One score per rationale and judge version; no step calls the judge again."""
    to_score = [
        (example, r) for example in examples for r in (*example.positives, *example.negatives)
    ]
    values = judge.score([(example.text, r.text) for example, r in to_score])
    scores = {r.id: score for (_, r), score in zip(to_score, values, strict=True)}
    divergence.check_scores(scores)
    match schedule.spec.discriminator.control:
        case "shuffled":
            return controls.shuffle_scores(scores, salt=f"{schedule.seed}/shuffled/{iteration}")
        case "gold":
            positives = {r.id for example in examples for r in example.positives}
            answers = {r.id: (r.answer, example.gold) for example, r in to_score}
            return controls.score_by_answer(answers, positives.__contains__)
    return scores


def score_texts(
    student: Student, examples: Sequence[TrainingExample], objective: Objective
) -> dict[str, float]:
    """The log-probability, in nats, of each positive and negative of `examples` that the objective
    looks at, as the loss sums it: whole, and without the answer behind it."""
    found: dict[str, float] = {}
    for start in range(0, len(examples), EXAMPLES_PER_CALL):
        part = examples[start : start + EXAMPLES_PER_CALL]
        rows = [
            (place, rationale)
            for place, example in enumerate(part)
            for rationale in (*example.positives[: objective.max_positives], *example.negatives)
        ]
        sums, _ = student.score_sums(
            [EXPLAIN_PREFIX + example.text for example in part],
            [place for place, _ in rows],
            [make_rationale_target(rationale, objective) for _, rationale in rows],
        )
        found |= {
            rationale.id: -total for (_, rationale), total in zip(rows, sums.tolist(), strict=True)
        }
    return found
