"""QCRD's equations as pure functions: tensors in, tensors out, a sum that the caller divides.

Symbols are the paper's. N questions, R rationales each (padded; `mask` marks real ones), `ce` the
mean token cross entropy of a rationale under the explain task, `s` the judge's score in (0, 1).
In the student's loss scores never carry a gradient: it would otherwise drive them to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from qcrd.records.specs.training_spec import ManyToOneScheme

IGNORE_INDEX = -100
"""Label of positions that are padding (the value `F.cross_entropy` ignores by default)."""

LOGITS_CHUNK_SIZE = 64
"""Positions whose logits are compared at once where no gradient will be asked for."""


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each token: [P, V], [P] -> [P], in fp32."""
    # Without gradients nothing of a piece is kept: it is reduced while in the CPU's cache.
    size = len(logits) if logits.requires_grad or logits.is_cuda else LOGITS_CHUNK_SIZE
    chunks = zip(torch.split(logits, size), torch.split(labels, size), strict=True)
    return torch.cat([F.cross_entropy(x.float(), y, reduction="none") for x, y in chunks])


# --- many-to-one: which of a question's rationales count, and how much (Table 5) --------------

WeightFn = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(ce [N, R], mask [N, R], s [N, R], lots [N, R]) -> weights [N, R]; a question without any real
rationale has the weights 0, every other question's weights sum to 1. `lots`: numbers in [0, 1], the
highest of which is drawn."""


def weight_lowest(ce: Tensor, mask: Tensor, s: Tensor, lots: Tensor) -> Tensor:
    return _one_hot(ce.masked_fill(~mask, torch.inf).argmin(1), mask)


def weight_highest(ce: Tensor, mask: Tensor, s: Tensor, lots: Tensor) -> Tensor:
    return _one_hot(ce.masked_fill(~mask, -torch.inf).argmax(1), mask)


def weight_sampled(ce: Tensor, mask: Tensor, s: Tensor, lots: Tensor) -> Tensor:
    return _one_hot(lots.masked_fill(~mask, -1).argmax(1), mask)


def weight_uniform(ce: Tensor, mask: Tensor, s: Tensor, lots: Tensor) -> Tensor:
    return mask / mask.sum(1, keepdim=True).clamp(min=1)


def weight_by_score(ce: Tensor, mask: Tensor, s: Tensor, lots: Tensor) -> Tensor:
    """In proportion to the quality that the term rewards: s for positives, 1 - s for negatives."""
    weights = s * mask
    return weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(s.dtype).tiny)


def _one_hot(index: Tensor, mask: Tensor) -> Tensor:
    return F.one_hot(index, mask.shape[1]) * mask


SCHEMES: Mapping[ManyToOneScheme, tuple[WeightFn, WeightFn]] = {
    ManyToOneScheme.MIN_MAX: (weight_lowest, weight_highest),
    ManyToOneScheme.MAX_MIN: (weight_highest, weight_lowest),
    ManyToOneScheme.SAMPLING: (weight_sampled, weight_sampled),
    ManyToOneScheme.MEAN: (weight_uniform, weight_uniform),
    ManyToOneScheme.WEIGHTED_MEAN: (weight_by_score, weight_by_score),
}
"""Scheme -> (how positives are weighed, how negatives are)."""

SCHEMES_BY_LOSS = frozenset({ManyToOneScheme.MIN_MAX, ManyToOneScheme.MAX_MIN})
"""The schemes that ask for the cross entropy of what they weigh."""


# --- the student's loss ------------------------------------------------------------------------


def positive_term(ce: Tensor, weights: Tensor, s: Tensor) -> Tensor:
    """Eq. 6, summed over questions: s · Σ_r w · ce. All arguments [N, R]."""
    return (weights * s.detach() * ce).sum()


def negative_term(ce: Tensor, weights: Tensor, s: Tensor, delta: float | Tensor) -> Tensor:
    """Eq. 7, summed over questions: (1 - s) · Σ_r w · min(ce - δ, 0). All arguments [N, R].

    max over r of min(ce - δ, 0) is min(max ce - δ, 0), so the pick may look at ce alone.
    """
    return (weights * (1 - s.detach()) * (ce - delta).clamp(max=0)).sum()


def token_unlikelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """-log(1 - p) of each token: [P, V], [P] -> [P] (Welleck et al. 2020, eq. 3). Finite where the
    token is certain."""
    log_p = -token_cross_entropy(logits, labels)
    # 1 - exp(x) for x ≤ 0, without loss of digits on either side.
    return -torch.log((-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny))


def preference_loss(
    pos: Tensor, neg: Tensor, reference_pos: Tensor, reference_neg: Tensor, beta: float
) -> Tensor:
    """DPO's loss of each pair (Rafailov et al. 2023, eq. 7). Log-probabilities of whole rationales
    under the student, with gradients, and under the reference: all [M]."""
    return -F.logsigmoid(beta * ((pos - reference_pos) - (neg - reference_neg)))


def generalised_jsd(
    student_logits: Tensor, teacher_logits: Tensor, beta: float, temperature: float = 1.0
) -> Tensor:
    """Generalised Jensen-Shannon divergence of each token (Agarwal et al. 2023, eq. 1): [P, V] of
    one vocabulary, twice -> [P], in nats. `beta` 0 is KL(teacher || student), 1 KL(student ||
    teacher); between them beta · KL(teacher || m) + (1 - beta) · KL(student || m) of the mixture
    m = beta · teacher + (1 - beta) · student."""
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities: [P, V], [P, V] -> [P]."""
    return (p.exp() * (p - q)).sum(-1)


def contrastive_loss(positive: Tensor, negative: Tensor, beta: float) -> Tensor:
    """Eq. 3 before its division by N: L_pos - β · L_neg."""
    return positive - beta * negative


# --- the judge's loss --------------------------------------------------------------------------
# Of logits z with s = sigmoid(z): from logit 17 on an fp32 score is 1, and with it the logarithm of
# 1 - s is infinite and the gradient of s is 0.


def paper_judge_loss(pos: Tensor, pos_mask: Tensor, neg: Tensor, neg_mask: Tensor) -> Tensor:
    """Eq. 2, summed over questions: -log(Σ_j exp s_j^pos / Σ_j exp s_j^neg).

    Logits [N, R] of scores in (0, 1): that alone bounds the loss. Questions that lack a side
    count 0.
    """
    both = pos_mask.any(1) & neg_mask.any(1)
    return (_log_sum_exp(_score(neg), neg_mask) - _log_sum_exp(_score(pos), pos_mask))[both].sum()


def infonce_judge_loss(pos: Tensor, pos_mask: Tensor, neg: Tensor, neg_mask: Tensor) -> Tensor:
    """Eq. 2 with the positives in the denominator too; never below 0. Logits [N, R]."""
    both = pos_mask.any(1) & neg_mask.any(1)
    s_pos, s_neg = _score(pos), _score(neg)
    log_sum_all = _log_sum_exp(torch.cat((s_pos, s_neg), 1), torch.cat((pos_mask, neg_mask), 1))
    return (log_sum_all - _log_sum_exp(s_pos, pos_mask))[both].sum()


def bce_judge_loss(pos: Tensor, pos_mask: Tensor, neg: Tensor, neg_mask: Tensor) -> Tensor:
    """Binary cross entropy, the mean over each question's rationales, summed over questions.
    Logits [N, R]; 1 - sigmoid(z) is sigmoid(-z)."""
    positive_loss = -(F.logsigmoid(pos).masked_fill(~pos_mask, 0).sum(1))
    negative_loss = -(F.logsigmoid(-neg).masked_fill(~neg_mask, 0).sum(1))
    count = pos_mask.sum(1) + neg_mask.sum(1)
    return ((positive_loss + negative_loss) / count.clamp(min=1)).sum()


def _score(logits: Tensor) -> Tensor:
    """sigmoid(z), whose gradient s · (1 - s) is exact also where s rounds to 1."""
    return F.logsigmoid(logits).exp()


def _log_sum_exp(s: Tensor, mask: Tensor) -> Tensor:
    return s.masked_fill(~mask, -torch.inf).logsumexp(1)


JUDGE_LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "paper": paper_judge_loss,
    "infonce": infonce_judge_loss,
    "bce": bce_judge_loss,
}
