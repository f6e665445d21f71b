"""One optimizer step's loss: eqs 3, 6, 7 and 8 over a batch of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qcrd.method import losses
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import EncodedPrompts, Student
from qcrd.method.training.candidates import Candidates
from qcrd.method.training.objectives import Objective
from qcrd.records.prompt_format import JOINED_ANSWER_PREFIX
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import LossSpec

JudgeScores = Mapping[str, float]
"""Rationale id -> the judge's score."""


@dataclass(frozen=True)
class TrainingExample:
    """One question to train the student on. `text` is the question with its options."""

    id: str
    text: str
    label: str
    gold: str
    positives: tuple[Rationale, ...] = ()
    negatives: tuple[Rationale, ...] = ()


@dataclass(frozen=True)
class StepLoss:
    """The step's loss and its parts, as plain numbers for the record."""

    total: Tensor
    losses: dict[str, float] = field(default_factory=dict)


def compute_step_loss(
    student: Student,
    batch: Sequence[TrainingExample],
    objective: Objective,
    spec: LossSpec,
    scores: JudgeScores,
    generator: torch.Generator,
    *,
    reduce_sum: Callable[[float], float] = float,
) -> StepLoss:
    """Eq. 8 without its judge term: scores are constants here, the judge has its own update.

    Where `batch` is a share of a step's, `reduce_sum` gives a count's sum over all shares; the
    terms then add up to those of the whole.
    """
    if objective.joined:
        joined_loss = _label_loss(
            student, batch, [_joined_target(example) for example in batch], reduce_sum
        )
        return StepLoss(joined_loss, {"loss": joined_loss.item()})
    label_loss = _label_loss(student, batch, [example.label for example in batch], reduce_sum)
    if objective.max_positives == 0:
        return StepLoss(label_loss, {"loss": label_loss.item(), "label": label_loss.item()})
    contrastive_loss, parts = _contrastive_loss(
        student, batch, objective, spec, scores, generator, reduce_sum
    )
    total = spec.alpha[0] * label_loss + spec.alpha[1] * contrastive_loss
    return StepLoss(total, {"loss": total.item(), "label": label_loss.item(), **parts})


def count_step(
    student: Student, batch: Sequence[TrainingExample], objective: Objective
) -> tuple[int, int]:
    """What `compute_step_loss` divides by, in its order: tokens of the targets, and questions that
    have a rationale to learn from."""
    targets = [_joined_target(e) if objective.joined else e.label for e in batch]
    tokens = [student.tokenize_target(target)[: student.max_target_tokens] for target in targets]
    return sum(map(len, tokens)), sum(bool(example.positives) for example in batch)


def _label_loss(
    student: Student,
    batch: Sequence[TrainingExample],
    targets: Sequence[str],
    reduce_sum: Callable[[float], float],
) -> Tensor:
    """L_pred: token cross entropy of the labels, divided once by the step's token count."""
    if not batch:
        reduce_sum(0)
        return torch.zeros((), device=student.device)
    encoded = student.encode([PREDICT_PREFIX + example.text for example in batch])
    total, count = student.cross_entropy(encoded, range(len(batch)), targets)
    return total.sum() / reduce_sum(count.sum().item())


def _joined_target(example: TrainingExample) -> str:
    if not example.positives:
        return f"{JOINED_ANSWER_PREFIX} {example.label}"
    return f"{example.positives[0].text} {JOINED_ANSWER_PREFIX} {example.label}"


def _contrastive_loss(
    student: Student,
    batch: Sequence[TrainingExample],
    objective: Objective,
    spec: LossSpec,
    scores: JudgeScores,
    generator: torch.Generator,
    reduce_sum: Callable[[float], float],
) -> tuple[Tensor, dict[str, float]]:
    """L_cl of eq. 3, divided by the number of questions that have a rationale to learn from."""
    rows = [example for example in batch if example.positives]
    count = reduce_sum(len(rows))
    if not rows:
        return torch.zeros((), device=student.device), {"positive": 0.0, "negative": 0.0}
    encoded = student.encode([EXPLAIN_PREFIX + example.text for example in rows])
    pos_weight_fn, neg_weight_fn = losses.SCHEMES[spec.scheme]
    pos_candidates = Candidates(
        [example.positives[: objective.max_positives] for example in rows],
        scores,
        default_score=1.0,
    )
    neg_candidates = Candidates(
        [example.negatives if objective.uses_negatives else () for example in rows],
        scores,
        default_score=0.0,
    )
    pos_ce, neg_ce = _candidate_cross_entropy(student, encoded, pos_candidates, neg_candidates)
    pos_selected = pos_candidates.select(pos_ce, pos_weight_fn, generator, quality=lambda s: s)
    neg_selected = neg_candidates.select(
        neg_ce, neg_weight_fn, generator, quality=lambda s: 1 - s, max_ce=spec.delta
    )
    ce = _mean_cross_entropy(student, encoded, [*pos_selected.selected, *neg_selected.selected])
    n_positives = len(pos_selected.selected)
    columns = (pos_selected.weights, pos_selected.scores, neg_selected.weights, neg_selected.scores)
    w_pos, s_pos, w_neg, s_neg = (column.to(ce.device) for column in columns)
    positive = losses.positive_term(ce[:n_positives], w_pos, s_pos)
    negative = losses.negative_term(ce[n_positives:], w_neg, s_neg, spec.delta)
    total = losses.contrastive_loss(positive, negative, spec.beta) / count
    parts = {"positive": positive.item() / count, "negative": negative.item() / count}
    return total, parts


def _candidate_cross_entropy(
    student: Student,
    encoded: EncodedPrompts,
    pos_candidates: Candidates,
    neg_candidates: Candidates,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of every candidate without gradients, in one call for both sides.

    Positives without a choice need none; negatives do, to be left out past the margin.
    """
    scored_positives = [] if pos_candidates.has_no_choice else pos_candidates.flat_candidates
    to_score = [*scored_positives, *neg_candidates.flat_candidates]
    if not to_score:
        return torch.zeros(len(pos_candidates.flat_candidates)), torch.zeros(0)
    ce = student.mean_cross_entropy(
        encoded, [row for row, _ in to_score], [r.text for _, r in to_score]
    ).cpu()
    n_positives = len(scored_positives)
    return (
        torch.zeros(len(pos_candidates.flat_candidates))
        if pos_candidates.has_no_choice
        else ce[:n_positives]
    ), ce[n_positives:]


def _mean_cross_entropy(
    student: Student, encoded: EncodedPrompts, selected: Sequence[tuple[int, Rationale]]
) -> Tensor:
    """Mean token cross entropy of each chosen rationale, with gradients."""
    total, count = student.cross_entropy(
        encoded, [row for row, _ in selected], [rationale.text for _, rationale in selected]
    )
    return total / count
