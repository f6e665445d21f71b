"""How well the judge tells right from wrong, measured on what it never trained on (METHOD 2).

Per source of negative, because a judge can spot one kind and be blind to another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from scipy.stats import mannwhitneyu

from qcrd.method.judge.training_pairs import Contrast, Pair
from qcrd.records.job import JudgeHistograms, ReliabilityBin

POSITIVES = "positives"
"""The positives' name beside the sources of negatives."""

BINS = 10
"""Equal-width bins of [0, 1], for histograms and for calibration."""

COLLAPSED_AUC, COLLAPSED_SPREAD = 0.55, 0.02

FEWEST_TO_ALARM = 5
"""Held-back scores of a kind that the alarm needs: one or two say nothing about the judge."""

Scored = tuple[Sequence[float], Mapping[str, Sequence[float]]]
"""The positives' scores, and the negatives' by source."""


def health(
    judge: Callable[[Sequence[Pair]], list[float]], kept: Sequence[Contrast]
) -> tuple[dict[str, float], JudgeHistograms]:
    """Numbers and histograms over held-back contrasts, on their real negatives."""
    positives = judge([(c.question, r) for c in kept for r in c.positives])
    asked = [(source, (c.question, r)) for c in kept for source, r in c.named]
    negatives: dict[str, list[float]] = {source: [] for source in sorted({s for s, _ in asked})}
    for (source, _), score in zip(asked, judge([pair for _, pair in asked]), strict=True):
        negatives[source].append(score)
    scored = positives, negatives
    return numbers(scored), histograms(scored)


def numbers(scored: Scored) -> dict[str, float]:
    """Flat: `auc`, `mean_positive`, `mean_negative` and `spread` over all sources; `n_`, `mean_`
    and `auc_` of each source; `brier` and `ece`; and what the alarm goes by.

    A number that the held-back scores do not allow is left out. `alarm_negatives` is always there:
    how many negatives the alarm rests on, 0 where they are too few to raise one.
    """
    pos, by_source = scored
    neg = [score for own in by_source.values() for score in own]
    measured: dict[str, float] = {"positives": len(pos), "negatives": len(neg)}
    if pos:
        measured["mean_positive"] = sum(pos) / len(pos)
    if neg:
        measured["mean_negative"] = sum(neg) / len(neg)
    if (found := auc(pos, neg)) is not None:
        measured["auc"] = found
        measured["spread"] = _spread(pos, neg)
    for source, own in by_source.items():
        measured[f"n_{source}"] = len(own)
        measured[f"mean_{source}"] = sum(own) / len(own)
        if (found := auc(pos, own)) is not None:
            measured[f"auc_{source}"] = found
    return {**measured, **_calibration(pos, neg), **_alarm(scored)}


def histograms(scored: Scored) -> JudgeHistograms:
    pos, by_source = scored
    neg = [score for own in by_source.values() for score in own]
    return JudgeHistograms(
        scores={POSITIVES: _counts(pos)} | {name: _counts(own) for name, own in by_source.items()},
        reliability=reliability(pos, neg),
    )


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """Chance that a positive scores above a negative (ties count half); None without both."""
    if not positives or not negatives:
        return None
    u = mannwhitneyu(positives, negatives).statistic
    return float(u) / (len(positives) * len(negatives))


def reliability(
    positives: Sequence[float], negatives: Sequence[float]
) -> tuple[ReliabilityBin, ...]:
    """Per bin of scores: how many, their mean, and the share of positives among them."""
    rows: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for scores, right in ((positives, True), (negatives, False)):
        for score in scores:
            rows[_bin(score)].append((score, right))
    return tuple(
        ReliabilityBin(
            n=len(row),
            score=sum(score for score, _ in row) / len(row) if row else None,
            positive=sum(right for _, right in row) / len(row) if row else None,
        )
        for row in rows
    )


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error (Naeini et al. 2015): each bin's distance between its mean score
    and its share of positives, weighed by its share of the scores."""
    n = sum(one.n for one in bins)
    return sum(
        one.n / n * abs(one.score - one.positive)
        for one in bins
        if one.score is not None and one.positive is not None
    )


def brier(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Mean squared distance of a score from 1 (a positive) or 0 (a negative), Brier 1950."""
    squares = [(1 - score) ** 2 for score in positives] + [score**2 for score in negatives]
    return sum(squares) / len(squares)


def collapsed(measured: Mapping[str, float]) -> bool:
    """Scores that no longer tell anything. Too few negatives to know (`alarm_negatives` 0): no."""
    return (
        measured.get("alarm_auc", 1.0) < COLLAPSED_AUC
        or measured.get("alarm_spread", 1.0) < COLLAPSED_SPREAD
    )


def _calibration(pos: Sequence[float], neg: Sequence[float]) -> dict[str, float]:
    if not pos or not neg:
        return {}
    return {"brier": brier(pos, neg), "ece": calibration_error(reliability(pos, neg))}


def _alarm(scored: Scored) -> dict[str, float]:
    """AUC and spread over the sources that have enough held-back negatives, taken together."""
    pos, by_source = scored
    neg = [s for own in by_source.values() if len(own) >= FEWEST_TO_ALARM for s in own]
    found = auc(pos, neg) if len(pos) >= FEWEST_TO_ALARM else None
    if found is None:
        return {"alarm_negatives": 0}
    return {"alarm_negatives": len(neg), "alarm_auc": found, "alarm_spread": _spread(pos, neg)}


def _spread(pos: Sequence[float], neg: Sequence[float]) -> float:
    return max(*pos, *neg) - min(*pos, *neg)


def _counts(scores: Sequence[float]) -> tuple[int, ...]:
    bins = [_bin(score) for score in scores]
    return tuple(bins.count(number) for number in range(BINS))


def _bin(score: float) -> int:
    """The last bin holds 1 too."""
    return min(int(score * BINS), BINS - 1)
