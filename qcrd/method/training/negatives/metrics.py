"""What is told of an iteration's samples, and how likely a student finds them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.training.negatives.sample_filter import SampleKind
from qcrd.method.training.objectives import Objective
from qcrd.method.training.training_example import TrainingExample, make_rationale_target
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import OverPositive


def describe_samples(
    sampled: Mapping[str, Sequence[Rationale]], counts: Mapping[SampleKind, int], n_asked: int
) -> dict[str, float]:
    """Shares of the samples by what they are, of those asked for that were blank, and their
    entropy; nothing where none were asked for."""
    if not n_asked:
        return {}
    n_sampled = sum(counts.values())
    metrics = {
        "samples": float(n_sampled),
        "blank_share": 1 - n_sampled / n_asked,
        **{f"{kind}_share": counts[kind] / max(1, n_sampled) for kind in SampleKind},
    }
    entropies = [s.entropy for own in sampled.values() for s in own if s.entropy is not None]
    if entropies:
        metrics["entropy"] = statistics.fmean(entropies)
    return metrics


def score_pairs(
    student: Student,
    pairs: Sequence[tuple[TrainingExample, Rationale]],
    delta: float | OverPositive,
    objective: Objective,
) -> list[tuple[float, float]]:
    """Mean cross entropy of each sample under `student`, and the margin below which it acts."""
    if not pairs:
        return []
    index, prompts = range(len(pairs)), [EXPLAIN_PREFIX + e.text for e, _ in pairs]
    targets = [make_rationale_target(s, objective) for _, s in pairs]
    ce = student.mean_cross_entropy(prompts, index, targets).tolist()
    if not isinstance(delta, OverPositive):
        return [(value, delta) for value in ce]
    # The lowest positive stands for the picked one: a margin is told here, and not trained on.
    margins = []
    for (example, _), prompt in zip(pairs, prompts, strict=True):
        positives = [make_rationale_target(r, objective) for r in example.positives]
        if not positives:
            margins.append(0.0)
            continue
        positive_ce = student.mean_cross_entropy([prompt], [0] * len(positives), positives)
        margins.append(float(positive_ce.min()) + delta.over_positive)
    return list(zip(ce, margins, strict=True))
