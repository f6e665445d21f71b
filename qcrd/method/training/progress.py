"""Progress records that training yields: steps, iterations, phases."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcrd.records.job import JudgeHistograms


@dataclass(frozen=True)
class StepFinished:
    """One optimizer step: its number from 1, the share of the plan done after it, its loss terms,
    the gradient's norm before clipping and the learning rate."""

    step: int
    completed_fraction: float
    iteration: int
    losses: dict[str, float]
    gradient_norm: float
    learning_rate: float


@dataclass(frozen=True)
class IterationFinished:
    """One finished iteration. `is_best`: its weights are the best on validation so far; no accuracy
    where no validation was due."""

    iteration: int
    validation_accuracy: float | None
    is_best: bool
    judge_metrics: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    histograms: JudgeHistograms | None = None
    negative_metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseStarted:
    """A longer phase of the trainer without optimizer steps."""

    name: str


@dataclass(frozen=True)
class JudgePretrained:
    """The judge before the first iteration, with its health on held-out pairs."""

    judge_metrics: dict[str, float]
    histograms: JudgeHistograms | None
