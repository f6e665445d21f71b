"""One optimizer step's loss: eqs 3, 6, 7 and 8 over a batch of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qcrd.method import losses
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, joined_target
from qcrd.method.training.candidates import Candidates, SelectedCandidates
from qcrd.method.training.objectives import Objective
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import LossSpec, OverPositive

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
    choices: tuple[str, ...] = ()


class StepCounts(NamedTuple):
    """What a step divides by: tokens of the labels, and N of eq. 3."""

    label_tokens: int
    contrasted: int


class StepLoss(NamedTuple):
    """The step's loss and its parts, as plain numbers for the record. `positive` and `negative` are
    the terms of eqs 6 and 7 as they enter the loss, where the step has them."""

    total: Tensor
    losses: dict[str, float]
    positive: Tensor | None = None
    negative: Tensor | None = None


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
        counts: StepCounts | None = None,
    ) -> StepLoss:
        """Eq. 8 without its judge term: scores are constants here, the judge has its own update.

        Where `batch` is a share of a step's, `counts` are the whole step's; the terms of all shares
        then add up to its.
        """
        # One region: each weight is cast once for all three calls, and with a gradient, because the
        # first of them has one.
        with self.student.autocast():
            label_loss = self._label_loss(batch, counts)
            if self.objective.joined or self.objective.max_positives == 0:
                return _read_losses(
                    label_loss, {} if self.objective.joined else {"label": label_loss}
                )
            count = (
                counts.contrasted if counts else _count_contrasted(batch, self.objective, self.spec)
            )
            terms = self._contrastive_terms(batch, scores, generator) if count else None
        spec, label = self.spec, {"label": label_loss}
        if terms is None:
            nothing = torch.zeros_like(label_loss)
            parts = {"positive": nothing, "negative": nothing}
            return _read_losses(spec.alpha[0] * label_loss, label | parts)
        positive, negative = terms
        parts = {"positive": positive / count, "negative": negative / count}
        weight = spec.alpha[1] / count
        total = spec.alpha[0] * label_loss + weight * losses.contrastive_loss(
            positive, negative, spec.beta
        )
        return _read_losses(total, label | parts, weight * positive, -weight * spec.beta * negative)

    def _label_loss(self, batch: Sequence[TrainingExample], counts: StepCounts | None) -> Tensor:
        """L_pred: token cross entropy of the labels, divided once by the step's token count."""
        total, n_tokens = self.student.cross_entropy(
            [PREDICT_PREFIX + example.text for example in batch],
            range(len(batch)),
            [_label_target(example, self.objective) for example in batch],
        )
        return total.sum() / (counts.label_tokens if counts else n_tokens.sum())

    def _contrastive_terms(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor] | None:
        """Eqs 6 and 7 summed over the batch's questions; None where no rationale acts."""
        always = self.student.one_call  # every rank calls the model as often as the others
        rows = [example for example in batch if _has_rationales(example, self.objective)]
        if not (rows or always):
            return None
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
        pos = pos_candidates.select(pos_ce, pos_weight_fn, generator, quality=lambda s: s)
        margins = self._margins(len(rows), pos, pos_ce, pos_candidates)
        neg = neg_candidates.select(
            neg_ce, neg_weight_fn, generator, quality=lambda s: 1 - s, margins=margins
        )
        selected = [*pos.selected, *neg.selected]
        if not (selected or always):
            return None
        ce_sum, n_tokens = self.student.cross_entropy(prompts, *_index_targets(selected))
        ce, n_positives = ce_sum / n_tokens, len(pos.selected)
        neg_margins = margins[[row for row, _ in neg.selected]]
        w_pos, s_pos = torch.stack((pos.weights, pos.scores)).to(ce.device)
        w_neg, s_neg, delta = torch.stack((neg.weights, neg.scores, neg_margins)).to(ce.device)
        return (
            losses.positive_term(ce[:n_positives], w_pos, s_pos),
            losses.negative_term(ce[n_positives:], w_neg, s_neg, delta),
        )

    def _margins(
        self, n_rows: int, pos: SelectedCandidates, pos_ce: Tensor, pos_candidates: Candidates
    ) -> Tensor:
        """δ of each row. A row without a positive has nothing to be relative to: 0, so that its
        negatives are out of force."""
        delta = self.spec.delta
        if not isinstance(delta, OverPositive):
            return torch.full((n_rows,), float(delta))
        ce_by_id = {
            r.id: ce
            for (_, r), ce in zip(pos_candidates.flat_candidates, pos_ce.tolist(), strict=True)
        }
        margins = torch.zeros(n_rows)
        for (row, rationale), weight in zip(pos.selected, pos.weights.tolist(), strict=True):
            margins[row] += weight * ce_by_id[rationale.id]
        with_positive = {row for row, _ in pos.selected}
        has_positive = torch.tensor(
            [row in with_positive for row in range(n_rows)], dtype=torch.bool
        )
        return torch.where(has_positive, margins + delta.over_positive, margins)

    def _score_candidates(
        self,
        prompts: Sequence[str],
        pos_candidates: Candidates,
        neg_candidates: Candidates,
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy of every candidate without gradients, in one call for both sides.

        Positives without a choice need none, unless a margin is relative to them; negatives do, to
        be left out past the margin.
        """
        rows_with_negatives = {row for row, _ in neg_candidates.flat_candidates}
        is_relative = isinstance(self.spec.delta, OverPositive)
        # Question by question: what is scored must not depend on what shares a step or a part.
        scored = [
            index
            for index, (row, _) in enumerate(pos_candidates.flat_candidates)
            if pos_candidates.has_choice(row) or (is_relative and row in rows_with_negatives)
        ]
        pos_ce = torch.zeros(len(pos_candidates.flat_candidates))
        to_score = [pos_candidates.flat_candidates[i] for i in scored]
        to_score += neg_candidates.flat_candidates
        if not (to_score or self.student.one_call):
            return pos_ce, torch.zeros(0)
        ce = self.student.mean_cross_entropy(prompts, *_index_targets(to_score)).cpu()
        pos_ce[scored] = ce[: len(scored)]
        return pos_ce, ce[len(scored) :]


def _read_losses(
    total: Tensor,
    parts: dict[str, Tensor],
    positive: Tensor | None = None,
    negative: Tensor | None = None,
) -> StepLoss:
    """The step's loss with its parts as numbers, which are copied from the device at once."""
    named = {"loss": total, **parts}
    values = torch.stack([part.detach().float() for part in named.values()]).tolist()
    return StepLoss(total, dict(zip(named, values, strict=True)), positive, negative)


def count_step(
    student: Student, batch: Sequence[TrainingExample], objective: Objective, spec: LossSpec
) -> StepCounts:
    """The counts of a whole step, which may be computed in shares."""
    targets = [student.tokenize_target(_label_target(e, objective)) for e in batch]
    return StepCounts(sum(map(len, targets)), _count_contrasted(batch, objective, spec))


def _count_contrasted(
    batch: Sequence[TrainingExample], objective: Objective, spec: LossSpec
) -> int:
    """N of eq. 3."""
    if spec.contrast_normaliser == "all":
        return len(batch)
    return sum(_has_rationales(example, objective) for example in batch)


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
