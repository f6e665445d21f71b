"""Tokens, floating-point work and time of a training's optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.planning.architectures import Architecture
from qcrd.records.specs.spec import MethodName, MethodSpec

PEAK_FLOPS = 989e12
"""Of an H100 or H200 in dense bf16, per second (NVIDIA's data sheet)."""
UTILISATION = 0.4
"""Assumed share of the peak, until a measured speed is given: torchtitan states .33 to .39 for
8 B on H100s."""


@dataclass(frozen=True)
class StepTokens:
    """Tokens of an optimizer step over all processes: that the model reads, and that it predicts
    (and has logits for)."""

    read: int
    predicted: int


def count_step_tokens(
    spec: MethodSpec, method: MethodName, *, question: int, rationale: int, label: int
) -> StepTokens:
    """Of questions, rationales and labels of these lengths: a question is read once per task, and
    a rationale is a candidate once. A student that only reasons has one task."""
    batch = spec.hyperparameters.batch_size
    if method in (MethodName.FINETUNE, MethodName.SINGLE_TASK):
        joined = rationale if method is MethodName.SINGLE_TASK else 0
        return StepTokens(batch * (question + label + joined), batch * (label + joined))
    candidates = 1
    if method is not MethodName.DSS:
        candidates = spec.rationales.n
        if method is not MethodName.DSS_POSITIVES:
            candidates += spec.negatives.n * len(spec.negatives.source)
    predicted = batch * (label + candidates * rationale)
    n_tasks = 1 if spec.student.answers == "reasoned" else 2
    return StepTokens(n_tasks * batch * question + predicted, predicted)


def count_step_flops(architecture: Architecture, tokens: StepTokens, *, lora: bool) -> float:
    """6 per parameter and token, 4 where the weights are frozen; attention is left out."""
    work = 4.0 if lora else 6.0
    head = architecture.vocabulary * architecture.hidden
    return work * (architecture.linear_parameters * tokens.read + head * tokens.predicted)
