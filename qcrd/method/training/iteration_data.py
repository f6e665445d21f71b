"""What an iteration trains with, and the best student so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcrd.method.student.base import Weights
from qcrd.method.training.negatives.sample_filter import SampledRationales
from qcrd.records.job import JudgeHistograms

ValidationScore = tuple[float, float]
"""(validation accuracy, minus the label's mean cross entropy): higher is better, in this order."""


@dataclass(frozen=True)
class IterationData:
    """The input of an iteration: the student's earlier samples by question, the judge's
    score of every rationale by its id, the judge's health and what was measured of the samples."""

    samples: SampledRationales = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    judge_metrics: dict[str, float] = field(default_factory=dict)
    histograms: JudgeHistograms | None = None
    negative_metrics: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)
    """Log-probability of every rationale under the untrained student, where the loss asks for it.
    """


@dataclass(frozen=True)
class BestStudent:
    """The iteration with the best validation score so far."""

    score: ValidationScore
    iteration: int
    weights: Weights
