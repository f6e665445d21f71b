"""Calibrates how sure a student is of its answers, and measures how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from qcrd.method.judge.health import auc, brier_score, expected_calibration_error, reliability_bins
from qcrd.records.rationales import Prediction
from qcrd.records.reports.doubt import DoubtReport
from qcrd.records.students.confidence import Confidence, compute_log_odds

PRIOR_PRECISION, OFFSET_PRECISION = 4.0, 1.0
"""Of the normal priors of weights and offset: so that a handful of questions moves neither far."""
NEWTON_STEPS = 50


def calibrate(
    features: Sequence[Mapping[str, float]], right: Sequence[bool]
) -> tuple[float, dict[str, float]]:
    """Offset and weights of a logistic regression of `right` on log-odds (Platt 1999), most
    probable under priors that believe the first feature as it is and no other: without any
    question the confidence is the first feature's own probability."""
    names = list(features[0]) if features else ["answer"]
    x = np.array([[1.0, *(one[name] for name in names)] for one in features])
    x = x.reshape(len(features), len(names) + 1)
    y = np.array(right, float)
    prior = np.array([0.0, 1.0, *[0.0] * (len(names) - 1)])
    precision = np.diag([OFFSET_PRECISION, *[PRIOR_PRECISION] * len(names)])
    w = prior.copy()
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -500, 500)))
        gradient = x.T @ (p - y) + precision @ (w - prior)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + precision
        step = np.linalg.solve(hessian, gradient)
        # A whole step may overshoot where the logistic is flat.
        w -= step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
    return float(w[0]), dict(zip(names, map(float, w[1:]), strict=True))


def list_features(prediction: Prediction) -> dict[str, float] | None:
    """Of a greedy answer; None where there is no answer, of which nobody is sure."""
    if prediction.answer is None or prediction.answer_logprob is None:
        return None
    return {"answer": compute_log_odds(prediction.answer_logprob)}


def make_confidence(predictions: Sequence[Prediction], mark: Sequence[int]) -> Confidence:
    """Of greedy answers, calibrated on these."""
    known = [(features, p.right) for p in predictions if (features := list_features(p))]
    offset, weights = calibrate([one for one, _ in known], [right for _, right in known])
    return Confidence(mark=tuple(mark), offset=offset, weights=weights)


def add_confidence(
    predictions: Sequence[Prediction], confidence: Confidence
) -> tuple[Prediction, ...]:
    """The predictions with how sure their student is of each; 0 of no answer."""
    found = []
    for prediction in predictions:
        features = list_features(prediction)
        value = 0.0 if features is None else confidence.compute(features)
        found.append(prediction.model_copy(update={"confidence": value}))
    return tuple(found)


def measure_doubt(predictions: Sequence[Prediction], *, calibrated_on: int) -> DoubtReport | None:
    """Of predictions with a confidence; None without any."""
    pairs = [(p.confidence, p.right) for p in predictions if p.confidence is not None]
    if not pairs:
        return None
    right = [value for value, is_right in pairs if is_right]
    wrong = [value for value, is_right in pairs if not is_right]
    share = len(right) / len(pairs)
    bins = reliability_bins(right, wrong)
    return DoubtReport(
        calibrated_on=calibrated_on,
        n=len(pairs),
        brier=brier_score(right, wrong),
        brier_constant=share * (1 - share),
        ece=expected_calibration_error(bins),
        auroc=auc(right, wrong),
        reliability=bins,
    )
