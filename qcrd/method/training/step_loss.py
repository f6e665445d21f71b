"""One optimizer step's loss: eqs 3, 6, 7 and 8 over a batch of questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qcrd.method import losses
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, reasoned_target
from qcrd.method.training.candidates import Candidates, SelectedCandidates
from qcrd.method.training.objectives import Objective
from qcrd.method.training.step_counts import StepCounts, count_step
from qcrd.method.training.training_example import (
    TrainingExample,
    has_rationales,
    make_label_target,
    make_rationale_target,
)
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import LossSpec, OverPositive

JudgeScores = Mapping[str, float]
"""Rationale id -> the judge's score."""


class StepLoss(NamedTuple):
    """The step's loss and its parts, as plain numbers for the record. `positive` and `negative` are
    the terms of eqs 6 and 7 as they enter the loss, where the step has them."""

    total: Tensor
    losses: dict[str, float]
    positive: Tensor | None = None
    negative: Tensor | None = None


class _Terms(NamedTuple):
    """Eqs 6 and 7, and the cross entropy of the answers behind picked positives, each summed over
    questions."""

    positive: Tensor
    negative: Tensor
    answer: Tensor


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
        self.reference: Mapping[str, float] = {}
        """Log-probabilities of rationales under the untrained student, of an iteration with DPO."""

    def forward(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        luck: int,
        counts: StepCounts | None = None,
    ) -> StepLoss:
        """Eq. 8 without its judge term: scores are constants here, the judge has its own update.

        Where `batch` is a share of a step's, `counts` and `luck`, the seed of what a scheme draws,
        are the whole step's; the terms of all shares then add up to its.
        """
        counts = counts or count_step(self.student, batch, self.objective, self.spec)
        objective, spec = self.objective, self.spec
        # One region where the first call has a gradient: each weight is then cast once for all
        # three. Where scores come first, what older torch casts for them would have none.
        with self.student.autocast() if objective.predicts else nullcontext():
            label_loss = self._label_loss(batch, counts) if objective.predicts else None
            if label_loss is not None and objective.max_positives == 0:
                return _read_losses(label_loss, {} if objective.joined else {"label": label_loss})
            n = counts.contrasted
            terms = self._contrastive_terms(batch, scores, luck) if n else None
        if terms is None:
            nothing = torch.zeros((), device=self.student.device)
            terms = _Terms(nothing, nothing, nothing)
        answer_loss = terms.answer / max(1, counts.answer_tokens)
        prediction = _join_predictions(objective, label_loss, answer_loss)
        parts = {
            "label": answer_loss if label_loss is None else label_loss,
            **({"answer": answer_loss} if objective.answers == "both" else {}),
            "positive": terms.positive / max(1, n),
            "negative": terms.negative / max(1, n),
        }
        weight = spec.alpha[1] / max(1, n)
        contrast = losses.contrastive_loss(terms.positive, terms.negative, spec.beta)
        return _read_losses(
            spec.alpha[0] * prediction + weight * contrast,
            parts,
            weight * terms.positive,
            -weight * spec.beta * terms.negative,
        )

    def _label_loss(self, batch: Sequence[TrainingExample], counts: StepCounts) -> Tensor:
        """L_pred of the predict task: token cross entropy of the labels, divided once by the step's
        token count."""
        total, _ = self.student.cross_entropy(
            [PREDICT_PREFIX + example.text for example in batch],
            range(len(batch)),
            [make_label_target(example, self.objective) for example in batch],
        )
        return total.sum() / max(1, counts.label_tokens)

    def _contrastive_terms(
        self,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        luck: int,
    ) -> _Terms | None:
        """Eqs 6 and 7 summed over the batch's questions; None where no rationale acts."""
        always = self.student.one_call  # every rank calls the model as often as the others
        rows = [example for example in batch if has_rationales(example, self.objective)]
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
        pos = pos_candidates.select(pos_ce, pos_weight_fn, luck, quality=lambda s: s)
        has_margin = self.spec.contrast == "margin"
        margins = self._margins(len(rows), pos, pos_ce, pos_candidates)
        neg = neg_candidates.select(
            neg_ce,
            neg_weight_fn,
            luck,
            quality=lambda s: 1 - s,
            margins=margins if has_margin else None,
        )
        selected = [*pos.selected, *neg.selected]
        if not (selected or always):
            return None
        index, targets = self._index_targets(selected)
        n_positives = len(pos.selected)
        if self.objective.reasons:  # the answer stands behind what is right, and nothing else
            for place, (row, rationale) in enumerate(pos.selected):
                targets[place] = reasoned_target(rationale.text, rows[row].label)
        sums, n_tokens = self.student.part_cross_entropy(prompts, index, targets)
        if self.objective.reasons:
            ce, answer_ce = sums[:, 0] / n_tokens[:, 0], sums[:n_positives, 1]
        else:
            ce, answer_ce = sums.sum(1) / n_tokens.sum(1), torch.zeros_like(sums[:n_positives, 1])
        neg_margins = margins[[row for row, _ in neg.selected]]
        w_pos, s_pos = torch.stack((pos.weights, pos.scores)).to(ce.device)
        w_neg, s_neg, delta = torch.stack((neg.weights, neg.scores, neg_margins)).to(ce.device)
        positive = losses.positive_term(ce[:n_positives], w_pos, s_pos)
        match self.spec.contrast:
            case "margin":
                negative = losses.negative_term(ce[n_positives:], w_neg, s_neg, delta)
            case "unlikelihood":
                with self.student.losing(losses.token_unlikelihood):
                    ul, n_ul = self.student.cross_entropy(
                        prompts, index[n_positives:], targets[n_positives:]
                    )
                negative = -(w_neg * (1 - s_neg) * ul / n_ul).sum()
            case "dpo":
                whole = sums[:, 0] if self.objective.reasons else sums.sum(1)
                negative = -self._preference(pos, neg, whole)
        return _Terms(positive, negative, (w_pos * answer_ce).sum())

    def _preference(
        self, pos: SelectedCandidates, neg: SelectedCandidates, ce_sums: Tensor
    ) -> Tensor:
        """DPO's loss summed over the pairs of a row's picked rationales, each weighed by both."""
        pairs = [
            (i, len(pos.selected) + j)
            for i, (row, _) in enumerate(pos.selected)
            for j, (other, _) in enumerate(neg.selected)
            if row == other
        ]
        if not pairs:
            return ce_sums.sum() * 0
        picked = [*pos.selected, *neg.selected]
        weights = torch.cat((pos.weights, neg.weights)).to(ce_sums.device)
        reference = torch.tensor([self.reference[r.id] for _, r in picked]).to(ce_sums.device)
        first, second = torch.tensor(pairs).T.to(ce_sums.device)
        pair_losses = losses.preference_loss(
            -ce_sums[first], -ce_sums[second], reference[first], reference[second],
            self.spec.dpo_beta,
        )  # fmt: skip
        return (weights[first] * weights[second] * pair_losses).sum()

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

        Positives need none without a choice or under a scheme that does not ask for it, unless a
        margin is relative to them; negatives do, to be left out past the margin.
        """
        by_loss = self.spec.scheme in losses.SCHEMES_BY_LOSS
        rows_with_negatives = {row for row, _ in neg_candidates.flat_candidates}
        is_relative = isinstance(self.spec.delta, OverPositive)
        # Question by question: what is scored must not depend on what shares a step or a part.
        scored = [
            index
            for index, (row, _) in enumerate(pos_candidates.flat_candidates)
            if (by_loss and pos_candidates.has_choice(row))
            or (is_relative and row in rows_with_negatives)
        ]
        pos_ce = torch.zeros(len(pos_candidates.flat_candidates))
        to_score = [pos_candidates.flat_candidates[i] for i in scored]
        to_score += neg_candidates.flat_candidates
        if not (to_score or self.student.one_call):
            return pos_ce, torch.zeros(0)
        ce = self.student.mean_cross_entropy(prompts, *self._index_targets(to_score)).cpu()
        pos_ce[scored] = ce[: len(scored)]
        return pos_ce, ce[len(scored) :]

    def _index_targets(
        self, candidates: Sequence[tuple[int, Rationale]]
    ) -> tuple[list[int], list[Target]]:
        """The row and the target of each, without its answer."""
        return (
            [row for row, _ in candidates],
            [make_rationale_target(rationale, self.objective) for _, rationale in candidates],
        )


def _join_predictions(objective: Objective, label: Tensor | None, answer: Tensor) -> Tensor:
    """L_pred: of the labels, of the answers behind rationales, or half of each."""
    if label is None:
        return answer
    return (label + answer) / 2 if objective.reasons else label


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
