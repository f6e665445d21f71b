"""The judge's health: how well it separates held-out positives from negatives (METHOD 2).

Per source of negative, because a judge can recognise one kind and not another.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence

from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.records.job import JudgeHistograms
from qcrd.records.reports.doubt import ReliabilityBin

POSITIVES_LABEL = "positives"
"""The positives' name beside the sources of negatives."""

BINS = 10
"""Equal-width bins of [0, 1], for histograms and for calibration."""

MIN_HEALTHY_AUC, MIN_HEALTHY_SPREAD = 0.55, 0.02

MIN_ALARM_SAMPLES = 5
"""Held-out scores of a source that the alarm needs: one or two are no evidence."""

HoldoutScores = tuple[Sequence[float], Mapping[str, Sequence[float]]]
"""The positives' scores, and the negatives' by source."""


def measure_health(
    score: Callable[[Sequence[QuestionRationale]], list[float]], holdout: Sequence[TrainingPair]
) -> tuple[dict[str, float], JudgeHistograms]:
    """Metrics and histograms over held-out pairs, on their real negatives."""
    positives = score([(c.question, r) for c in holdout for r in c.positives])
    sourced_pairs = [
        (source, (c.question, r)) for c in holdout for source, r in c.sourced_negatives
    ]
    negatives: dict[str, list[float]] = {
        source: [] for source in sorted({s for s, _ in sourced_pairs})
    }
    for (source, _), value in zip(
        sourced_pairs, score([pair for _, pair in sourced_pairs]), strict=True
    ):
        negatives[source].append(value)
    holdout_scores = positives, negatives
    return compute_metrics(holdout_scores), make_histograms(holdout_scores)


def compute_metrics(holdout_scores: HoldoutScores) -> dict[str, float]:
    """Flat: `auc`, `mean_positive`, `mean_negative` and `spread` over all sources; `n_`, `mean_`
    and `auc_` of each source; `brier` and `ece`; and the alarm's inputs.

    A metric that the held-out scores do not allow is left out. `alarm_negatives` is always there:
    how many negatives the alarm rests on, 0 where they are too few to raise one.
    """
    pos, by_source = holdout_scores
    neg = [score for source_scores in by_source.values() for score in source_scores]
    metrics: dict[str, float] = {"positives": len(pos), "negatives": len(neg)}
    if pos:
        metrics["mean_positive"] = sum(pos) / len(pos)
    if neg:
        metrics["mean_negative"] = sum(neg) / len(neg)
    if (auc_value := auc(pos, neg)) is not None:
        metrics["auc"] = auc_value
        metrics["spread"] = _spread(pos, neg)
    for source, own in by_source.items():
        metrics[f"n_{source}"] = len(own)
        metrics[f"mean_{source}"] = sum(own) / len(own)
        if (auc_value := auc(pos, own)) is not None:
            metrics[f"auc_{source}"] = auc_value
    return {**metrics, **_calibration_metrics(pos, neg), **_alarm_metrics(holdout_scores)}


def make_histograms(holdout_scores: HoldoutScores) -> JudgeHistograms:
    pos, by_source = holdout_scores
    neg = [score for source_scores in by_source.values() for score in source_scores]
    return JudgeHistograms(
        scores={POSITIVES_LABEL: _bin_counts(pos)}
        | {name: _bin_counts(own) for name, own in by_source.items()},
        reliability=reliability_bins(pos, neg),
    )


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Chance that a positive scores above a negative (ties count half); None without both.

    Written out and tested against scipy, whose import is a seventh of a training process's start.
    """
    if not positives or not negatives:
        return None
    ranked = sorted(negatives)
    doubled = sum(bisect_left(ranked, s) + bisect_right(ranked, s) for s in positives)
    return doubled / (2 * len(positives) * len(negatives))


def reliability_bins(
    positives: Sequence[float], negatives: Sequence[float]
) -> tuple[ReliabilityBin, ...]:
    """Per bin of scores: how many, their mean, and the share of positives among them."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for scores, is_positive in ((positives, True), (negatives, False)):
        for score in scores:
            bins[_bin_index(score)].append((score, is_positive))
    return tuple(
        ReliabilityBin(
            n=len(bin_scores),
            score=sum(score for score, _ in bin_scores) / len(bin_scores) if bin_scores else None,
            positive=sum(right for _, right in bin_scores) / len(bin_scores)
            if bin_scores
            else None,
        )
        for bin_scores in bins
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error (Naeini et al. 2015): each bin's distance between its mean score
    and its share of positives, weighed by its share of the scores."""
    n = sum(reliability_bin.n for reliability_bin in bins)
    return sum(
        one.n / n * abs(one.score - one.positive)
        for one in bins
        if one.score is not None and one.positive is not None
    )


def brier_score(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Mean squared distance of a score from 1 (a positive) or 0 (a negative), Brier 1950."""
    squares = [(1 - score) ** 2 for score in positives] + [score**2 for score in negatives]
    return sum(squares) / len(squares)


def has_collapsed(metrics: Mapping[str, float]) -> bool:
    """Whether the scores no longer separate. Never with too few negatives (`alarm_negatives` 0)."""
    return (
        metrics.get("alarm_auc", 1.0) < MIN_HEALTHY_AUC
        or metrics.get("alarm_spread", 1.0) < MIN_HEALTHY_SPREAD
    )


def saw_no_real_negative(metrics: Mapping[str, float]) -> bool:
    """Whether the judge was pretrained on corrupted texts alone. Never where it was not counted: by
    an update, or by an earlier release of the discriminator."""
    return metrics.get("questions_with_real_negatives") == 0


def _calibration_metrics(pos: Sequence[float], neg: Sequence[float]) -> dict[str, float]:
    if not pos or not neg:
        return {}
    return {
        "brier": brier_score(pos, neg),
        "ece": expected_calibration_error(reliability_bins(pos, neg)),
    }


def _alarm_metrics(holdout_scores: HoldoutScores) -> dict[str, float]:
    """AUC and spread over the sources that have enough held-out negatives, taken together."""
    pos, by_source = holdout_scores
    neg = [
        s
        for source_scores in by_source.values()
        if len(source_scores) >= MIN_ALARM_SAMPLES
        for s in source_scores
    ]
    auc_value = auc(pos, neg) if len(pos) >= MIN_ALARM_SAMPLES else None
    if auc_value is None:
        return {"alarm_negatives": 0}
    return {"alarm_negatives": len(neg), "alarm_auc": auc_value, "alarm_spread": _spread(pos, neg)}


def _spread(pos: Sequence[float], neg: Sequence[float]) -> float:
    return max(*pos, *neg) - min(*pos, *neg)


def _bin_counts(scores: Sequence[float]) -> tuple[int, ...]:
    bins = [_bin_index(score) for score in scores]
    return tuple(bins.count(number) for number in range(BINS))


def _bin_index(score: float) -> int:
    """The last bin holds 1 too."""
    return min(int(score * BINS), BINS - 1)
