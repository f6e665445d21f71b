"""Saves a trainer between two steps as named tensors and plain values, and restores it.

Batches, dropout and samples are functions of (seed, iteration, step), so no generator is saved:
the step numbers determine the state of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qcrd.method.training import weight_history
from qcrd.method.training.iteration_data import BestStudent, IterationData
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.job import JudgeHistograms
from qcrd.records.rationales import Rationale

LIVE_WEIGHTS, OPTIMIZER_MOMENTS = "live", "moments"


@dataclass(frozen=True)
class TrainerState:
    """`tensors` by name: `weights/<iteration>` never change once made; `live` (the student in the
    middle of an iteration) and `moments` (the optimizer) do. `iteration_data` is the input of the
    current iteration, `numbers` the rest; both are JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]
    iteration_data: Mapping[str, Any] | None = None


def weights_name(iteration: int) -> str:
    return f"weights/{iteration:06d}"


def capture_state(trainer: Trainer) -> TrainerState:
    best = trainer.best
    weights_by_iteration = dict(trainer.weight_history.by_iteration)
    if best is not None:
        weights_by_iteration[best.iteration] = best.weights
    tensors: dict[str, Mapping[str, Tensor]] = {
        weights_name(i): w for i, w in weights_by_iteration.items()
    }
    if trainer.step_in_iteration:
        tensors[LIVE_WEIGHTS] = copy_trainable_weights(trainer.student)
    tensors[OPTIMIZER_MOMENTS] = trainer.optimizer_step.get_moments()
    numbers = {
        "begun": trainer.started,
        "iteration": trainer.iteration,
        "step": trainer.step,
        "cursor": trainer.step_in_iteration,
        "ring": sorted(trainer.weight_history.by_iteration),
        "pretrained": trainer.pretrain_metrics,
        "chosen": trainer.chosen,
        "in_force_shares": trainer.in_force_shares,
        "best": None if best is None else [best.iteration, *best.score],
        "student_flops": trainer.student.flops,
        "student_tokens": None if math.isnan(trainer.student.tokens) else trainer.student.tokens,
        "sampler_flops": trainer.negative_sampler.flops,
        "judge_flops": 0.0 if trainer.judge is None else trainer.judge.flops,
        "judge_version": trainer.judge_version,
        "temperature": trainer.negative_supply.temperature,
        "recent_losses": {
            name: list(values) for name, values in trainer.collapse_check.recent.items()
        },
    }
    return TrainerState(tensors, numbers, _serialize_iteration_data(trainer.iteration_data))


def make_empty_tensor(
    trainer: Trainer, part: str, name: str, size: torch.Size, dtype: torch.dtype
) -> Tensor:
    """A tensor to read `name` of `part` into: of a sharded student, this rank's shard of it."""
    if part == OPTIMIZER_MOMENTS:
        template = trainer.optimizer_step.parameters()[int(name.split(".", 1)[0])].detach()
    else:
        template = weight_history.get_trainable_weights(trainer.student)[name]
    if template.shape != size:  # a number of the optimizer's
        return torch.empty(size, dtype=dtype)
    return torch.empty_like(template, dtype=dtype).to("cpu")


def copy_moments(state: TrainerState) -> TrainerState:
    """`state`, whatever becomes of the training that it was captured from."""
    moments = state.tensors.get(OPTIMIZER_MOMENTS, {})
    copied = {name: tensor.to("cpu", copy=True) for name, tensor in moments.items()}
    return replace(state, tensors={**state.tensors, OPTIMIZER_MOMENTS: copied})


def restore_state(trainer: Trainer, state: TrainerState) -> None:
    """Restore `state` into `trainer`, which then continues as if never interrupted."""
    numbers, tensors = state.numbers, state.tensors
    trainer.started = numbers["begun"]
    trainer.iteration, trainer.step = numbers["iteration"], numbers["step"]
    trainer.step_in_iteration = numbers["cursor"]
    trainer.iteration_data = _deserialize_iteration_data(state.iteration_data)
    trainer.weight_history.by_iteration = {i: tensors[weights_name(i)] for i in numbers["ring"]}
    newest_weights = trainer.weight_history.by_iteration[trainer.iteration]
    weight_history.load_weights(
        trainer.student, tensors[LIVE_WEIGHTS] if trainer.step_in_iteration else newest_weights
    )
    trainer.optimizer_step.load_moments(tensors[OPTIMIZER_MOMENTS])
    trainer.student.flops = numbers["student_flops"]
    # A run that began before tokens were counted never knows how many they were.
    tokens = numbers.get("student_tokens")
    trainer.student.tokens = math.nan if tokens is None else tokens
    trainer.negative_sampler.flops = numbers["sampler_flops"]
    if trainer.judge is not None:
        trainer.judge.flops = numbers["judge_flops"]
    trainer.negative_supply.temperature = numbers.get("temperature")
    trainer.collapse_check.recent = {**numbers.get("recent_losses", {})}
    trainer.pretrain_metrics = numbers["pretrained"]
    trainer.in_force_shares = list(numbers.get("in_force_shares", []))
    if (chosen := numbers.get("chosen")) is not None:
        trainer.teach_only(chosen)
    if numbers["best"] is not None:
        iteration, accuracy, minus_ce = numbers["best"]
        trainer.best = BestStudent(
            (accuracy, minus_ce), iteration, tensors[weights_name(iteration)]
        )


def _serialize_iteration_data(iteration_data: IterationData | None) -> dict[str, Any] | None:
    if iteration_data is None:
        return None
    return {
        "sampled": {
            key: [rationale.model_dump(mode="json") for rationale in said]
            for key, said in iteration_data.samples.items()
        },
        "scores": iteration_data.scores,
        "health": iteration_data.judge_metrics,
        "negatives": iteration_data.negative_metrics,
        "reference": iteration_data.reference,
        "histograms": iteration_data.histograms
        and iteration_data.histograms.model_dump(mode="json"),
    }


def _deserialize_iteration_data(data: Mapping[str, Any] | None) -> IterationData | None:
    if data is None:
        return None
    samples = {
        key: tuple(Rationale.model_validate(one) for one in said)
        for key, said in data["sampled"].items()
    }
    histograms = data["histograms"] and JudgeHistograms.model_validate(data["histograms"])
    return IterationData(
        samples,
        data["scores"],
        data["health"],
        histograms,
        data.get("negatives", {}),
        data.get("reference", {}),
    )
