"""One optimizer step's loss: eqs 3, 6, 7 and 8 over a batch of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcrd.method import losses
from qcrd.method.evaluation.predict import JOINED_ANSWER_PREFIX
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import EncodedPrompts, Student
from qcrd.method.training.candidates import Slate
from qcrd.method.training.objectives import Objective
from qcrd.records.rationales import Rationale
from qcrd.records.spec import LossSpec

Scores = Mapping[str, float]
"""Rationale id -> the judge's score."""


@dataclass(frozen=True)
class Lesson:
    """What the student learns from one question. `text` is the question with its options."""

    id: str
    text: str
    label: str
    gold: str
    positives: tuple[Rationale, ...] = ()
    negatives: tuple[Rationale, ...] = ()


@dataclass(frozen=True)
class Terms:
    """The step's loss and its parts, as plain numbers for the record."""

    total: Tensor
    parts: dict[str, float] = field(default_factory=dict)


def step_terms(
    student: Student,
    batch: Sequence[Lesson],
    objective: Objective,
    spec: LossSpec,
    scores: Scores,
    generator: torch.Generator,
    *,
    summed: Callable[[float], float] = float,
) -> Terms:
    """Eq. 8 without its judge term: scores are constants here, the judge follows it by itself.

    Where `batch` is a share of a step's, `summed` gives a count's sum over all shares; the terms
    then add up to those of the whole.
    """
    if objective.joined:
        joint = _label_term(student, batch, [_joint_target(lesson) for lesson in batch], summed)
        return Terms(joint, {"loss": joint.item()})
    label = _label_term(student, batch, [lesson.label for lesson in batch], summed)
    if objective.rationales == 0:
        return Terms(label, {"loss": label.item(), "label": label.item()})
    contrast, parts = _contrast_term(student, batch, objective, spec, scores, generator, summed)
    total = spec.alpha[0] * label + spec.alpha[1] * contrast
    return Terms(total, {"loss": total.item(), "label": label.item(), **parts})


def _label_term(
    student: Student,
    batch: Sequence[Lesson],
    targets: Sequence[str],
    summed: Callable[[float], float],
) -> Tensor:
    """L_pred: token cross entropy of the labels, divided once by the step's token count."""
    if not batch:
        summed(0)
        return torch.zeros((), device=student.device)
    reading = student.encode([PREDICT_PREFIX + lesson.text for lesson in batch])
    total, count = student.cross_entropy(reading, range(len(batch)), targets)
    return total.sum() / summed(count.sum().item())


def _joint_target(lesson: Lesson) -> str:
    if not lesson.positives:
        return f"{JOINED_ANSWER_PREFIX} {lesson.label}"
    return f"{lesson.positives[0].text} {JOINED_ANSWER_PREFIX} {lesson.label}"


def _contrast_term(
    student: Student,
    batch: Sequence[Lesson],
    objective: Objective,
    spec: LossSpec,
    scores: Scores,
    generator: torch.Generator,
    summed: Callable[[float], float],
) -> tuple[Tensor, dict[str, float]]:
    """L_cl of eq. 3, divided by the number of questions that have a rationale to learn from."""
    rows = [lesson for lesson in batch if lesson.positives]
    count = summed(len(rows))
    if not rows:
        return torch.zeros((), device=student.device), {"positive": 0.0, "negative": 0.0}
    reading = student.encode([EXPLAIN_PREFIX + lesson.text for lesson in rows])
    weigh_pos, weigh_neg = losses.SCHEMES[spec.scheme]
    pos = Slate([lesson.positives[: objective.rationales] for lesson in rows], scores, missing=1.0)
    neg = Slate(
        [lesson.negatives if objective.negatives else () for lesson in rows], scores, missing=0.0
    )
    pos_values, neg_values = _values(student, reading, pos, neg)
    pos_picks = pos.weigh(pos_values, weigh_pos, generator, quality=lambda s: s)
    neg_picks = neg.weigh(
        neg_values, weigh_neg, generator, quality=lambda s: 1 - s, below=spec.delta
    )
    ce = _cross_entropy(student, reading, [*pos_picks.chosen, *neg_picks.chosen])
    cut = len(pos_picks.chosen)
    picks = (pos_picks.weights, pos_picks.scores, neg_picks.weights, neg_picks.scores)
    w_pos, s_pos, w_neg, s_neg = (column.to(ce.device) for column in picks)
    positive = losses.positive_term(ce[:cut], w_pos, s_pos)
    negative = losses.negative_term(ce[cut:], w_neg, s_neg, spec.delta)
    total = losses.contrastive_loss(positive, negative, spec.beta) / count
    parts = {"positive": positive.item() / count, "negative": negative.item() / count}
    return total, parts


def _values(
    student: Student, reading: EncodedPrompts, pos: Slate, neg: Slate
) -> tuple[Tensor, Tensor]:
    """Cross entropy of every candidate without gradients, in one call for both sides.

    Positives without a choice need none; negatives do, to be left out past the margin.
    """
    first = [] if pos.forced else pos.flat
    asked = [*first, *neg.flat]
    if not asked:
        return torch.zeros(len(pos.flat)), torch.zeros(0)
    ce = student.mean_cross_entropy(
        reading, [row for row, _ in asked], [r.text for _, r in asked]
    ).cpu()
    cut = len(first)
    return (torch.zeros(len(pos.flat)) if pos.forced else ce[:cut]), ce[cut:]


def _cross_entropy(
    student: Student, reading: EncodedPrompts, chosen: Sequence[tuple[int, Rationale]]
) -> Tensor:
    """Mean token cross entropy of each chosen rationale, with gradients."""
    total, count = student.cross_entropy(
        reading, [row for row, _ in chosen], [rationale.text for _, rationale in chosen]
    )
    return total / count
