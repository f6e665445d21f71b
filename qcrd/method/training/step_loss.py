"""One optimizer step's loss: eqs 3, 6, 7 and 8 over a batch of questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qcrd.method import losses
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, joined_target
from qcrd.method.training.candidates import Candidates
from qcrd.method.training.objectives import Objective
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


class StepLoss(NamedTuple):
    """The step's loss and its parts, as plain numbers for the record."""

    total: Tensor
    losses: dict[str, float]


class StepModule(nn.Module):
    """The whole step as one module: reading, scoring, picking and the loss.

    Its forward is all that autograd sees, so what wraps modules, to shard or to synchronise them,
    wraps this one. It calls the model three times: for the labels, for every candidate without
    gradients, and for the candidates that were picked.
    """

    def __init__(self, student: Student, objective: Objective, spec: LossSpec) -> None:
        super().__init__()
        self.model = student.model
        self.student = student
        self.objective = objective
        self.spec = spec

    def forward(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        generator: torch.Generator,
        reduce_sum: Callable[[float], float] = float,
    ) -> StepLoss:
        """Eq. 8 without its judge term: scores are constants here, the judge has its own update.

        Where `batch` is a share of a step's, `reduce_sum` gives a count's sum over all shares; the
        terms then add up to those of the whole.
        """
        objective, spec = self.objective, self.spec
        label_loss = self._label_loss(batch, reduce_sum)
        if objective.joined:
            return StepLoss(label_loss, {"loss": label_loss.item()})
        losses = {"label": label_loss.item()}
        if objective.max_positives == 0:
            return StepLoss(label_loss, {"loss": label_loss.item(), **losses})
        contrastive_loss, parts = self._contrastive_loss(batch, scores, generator, reduce_sum)
        total = spec.alpha[0] * label_loss + spec.alpha[1] * contrastive_loss
        return StepLoss(total, {"loss": total.item(), **losses, **parts})

    def _label_loss(
        self, batch: Sequence[TrainingExample], reduce_sum: Callable[[float], float]
    ) -> Tensor:
        """L_pred: token cross entropy of the labels, divided once by the step's token count."""
        if not batch:
            reduce_sum(0)
            return torch.zeros((), device=self.student.device)
        total, count = self.student.cross_entropy(
            [PREDICT_PREFIX + example.text for example in batch],
            range(len(batch)),
            [_label_target(example, self.objective) for example in batch],
        )
        return total.sum() / reduce_sum(count.sum().item())

    def _contrastive_loss(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        generator: torch.Generator,
        reduce_sum: Callable[[float], float],
    ) -> tuple[Tensor, dict[str, float]]:
        """L_cl of eq. 3: the terms of the batch's questions, divided by their number."""
        count = reduce_sum(_count_contrasted(batch, self.spec))
        rows = [example for example in batch if _has_rationales(example, self.objective)]
        if not rows:
            return torch.zeros((), device=self.student.device), {"positive": 0.0, "negative": 0.0}
        prompts = [EXPLAIN_PREFIX + example.text for example in rows]
        pos_weight_fn, neg_weight_fn = losses.SCHEMES[self.spec.scheme]
        pos_candidates = Candidates(
            [example.positives[: self.objective.max_positives] for example in rows],
            scores,
            default_score=1.0,
        )
        neg_candidates = Candidates(
            [example.negatives if self.objective.uses_negatives else () for example in rows],
            scores,
            default_score=0.0,
        )
        pos_ce, neg_ce = self._score_candidates(prompts, pos_candidates, neg_candidates)
        pos_selected = pos_candidates.select(pos_ce, pos_weight_fn, generator, quality=lambda s: s)
        neg_selected = neg_candidates.select(
            neg_ce, neg_weight_fn, generator, quality=lambda s: 1 - s, max_ce=self.spec.delta
        )
        selected = [*pos_selected.selected, *neg_selected.selected]
        if not selected:
            return torch.zeros((), device=self.student.device), {"positive": 0.0, "negative": 0.0}
        ce_sum, n_tokens = self.student.cross_entropy(prompts, *_index_targets(selected))
        ce = ce_sum / n_tokens
        n_positives = len(pos_selected.selected)
        columns = (
            pos_selected.weights, pos_selected.scores, neg_selected.weights, neg_selected.scores,
        )  # fmt: skip
        w_pos, s_pos, w_neg, s_neg = (column.to(ce.device) for column in columns)
        positive = losses.positive_term(ce[:n_positives], w_pos, s_pos)
        negative = losses.negative_term(ce[n_positives:], w_neg, s_neg, self.spec.delta)
        total = losses.contrastive_loss(positive, negative, self.spec.beta) / count
        return total, {"positive": positive.item() / count, "negative": negative.item() / count}

    def _score_candidates(
        self,
        prompts: Sequence[str],
        pos_candidates: Candidates,
        neg_candidates: Candidates,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy of every candidate without gradients, in one call for both sides.

        Positives without a choice need none; negatives do, to be left out past the margin.
        """
        n_positives = len(pos_candidates.flat_candidates)
        scored_positives = [] if pos_candidates.has_no_choice else pos_candidates.flat_candidates
        to_score = [*scored_positives, *neg_candidates.flat_candidates]
        if not to_score:
            return torch.zeros(n_positives), torch.zeros(0)
        ce = self.student.mean_cross_entropy(prompts, *_index_targets(to_score)).cpu()
        n_scored = len(scored_positives)
        return (ce[:n_scored] if n_scored else torch.zeros(n_positives)), ce[n_scored:]


def count_step(
    student: Student, batch: Sequence[TrainingExample], objective: Objective, spec: LossSpec
) -> tuple[int, int]:
    """What a step divides by, in the order in which it asks: tokens of the targets, and questions
    of the contrast."""
    targets = [student.tokenize_target(_label_target(e, objective)) for e in batch]
    return sum(map(len, targets)), _count_contrasted(batch, spec)


def _count_contrasted(batch: Sequence[TrainingExample], spec: LossSpec) -> int:
    """N of eq. 3."""
    if spec.contrast_normaliser == "all":
        return len(batch)
    return sum(bool(example.positives) for example in batch)


def _has_rationales(example: TrainingExample, objective: Objective) -> bool:
    return bool(example.positives or (objective.uses_negatives and example.negatives))


def _label_target(example: TrainingExample, objective: Objective) -> Target:
    """The label; of a joined student, behind its first positive."""
    if not objective.joined:
        return Target(answer=example.label)
    text = example.positives[0].text if example.positives else ""
    return joined_target(text, example.label)


def _index_targets(
    candidates: Sequence[tuple[int, Rationale]],
) -> tuple[list[int], list[Target]]:
    """The row and the target of each."""
    return [row for row, _ in candidates], [Target(r.text, is_cut=r.is_cut) for _, r in candidates]
