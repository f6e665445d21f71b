"""How sure a student is of an answer: from what it gave that answer's tokens to a probability.

One rule for the evaluation, which calibrates it, and for whoever asks a published student.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import ConfigDict, Field

from qcrd.records.base import Record
from qcrd.records.students.fallback import Fallback

MAX_LOG_ODDS, MIN_SCORE = 20.0, 1e-9
"""Of a feature: beyond it a probability is 0 or 1 to nine digits."""


class Confidence(Record):
    """A logistic model of whether an answer is right: `offset` plus the weighted log-odds of what
    is known of it. `mark`: the tokens behind which an answer begins; empty where an output is all
    answer. Of a vote `samples` outputs at `temperature` were calibrated.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    mark: tuple[int, ...] = ()
    offset: float = 0.0
    weights: dict[str, float] = Field(default_factory=dict)
    """By feature: `answer` (its probability under the student, freely, whatever it was held to) and
    of a vote its `share` and the judge's `score`."""
    samples: int = 1
    temperature: float = 0.0
    fallback: Fallback | None = None

    def compute_single(self, answer_logprob: float | None) -> float:
        """Of one greedy output, by the log-probability of its answer; 0 where it has none."""
        if answer_logprob is None:
            return 0.0
        return self.compute({"answer": compute_log_odds(answer_logprob)})

    def compute(self, features: dict[str, float]) -> float:
        """In [0, 1], of the log-odds of each feature."""
        total = self.offset + sum(self.weights[name] * features[name] for name in self.weights)
        return 1 / (1 + math.exp(-max(-700.0, total)))


def compute_log_odds(logprob: float) -> float:
    """Of a probability by its natural logarithm, at most `MAX_LOG_ODDS` either way."""
    rest = -math.expm1(min(logprob, -1e-12))
    return max(-MAX_LOG_ODDS, min(MAX_LOG_ODDS, logprob - math.log(rest)))


def compute_share_log_odds(count: int, total: int) -> float:
    """Of a vote's share, as if each side had half a vote more: no share is certain."""
    return math.log((count + 0.5) / (total - count + 0.5))


def compute_vote_features(
    winners: Sequence[tuple[float | None, float | None]], total: int
) -> dict[str, float]:
    """Of the (log-probability, score) of the outputs with the answer, of `total` outputs. The
    answer's own probability comes first, which calibration believes before it has seen anything:
    outputs that are held to the task's labels agree on questions of other tasks too."""
    known = [compute_log_odds(logprob) for logprob, _ in winners if logprob is not None]
    features = {
        "answer": sum(known) / len(known) if known else 0.0,
        "share": compute_share_log_odds(len(winners), total),
    }
    scored = [score for _, score in winners if score is not None]
    if scored:
        odds = [compute_log_odds(math.log(max(score, MIN_SCORE))) for score in scored]
        features["score"] = sum(odds) / len(odds)
    return features


def sum_answer_logprobs(
    tokens: Sequence[int], logprobs: Sequence[float], mark: Sequence[int]
) -> float | None:
    """The log-probability of what stands behind the last `mark`, the end with it; None where an
    output has no mark, or nothing behind it."""
    width = len(mark)
    starts = range(len(tokens) - width, -1, -1) if width else (0,)
    place = next((i for i in starts if tuple(tokens[i : i + width]) == tuple(mark)), None)
    if place is None or place + width >= len(tokens):
        return None
    return sum(logprobs[place + width :])
