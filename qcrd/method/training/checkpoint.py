"""A trainer between two steps as named tensors and plain values, and back.

Batches, dropout and samples are functions of (seed, iteration, step), so no generator is saved:
step and cursor say where each of them stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qcrd.method.training import weight_history
from qcrd.method.training.trainer import Best, Prepared, Trainer
from qcrd.method.training.weight_history import trainable
from qcrd.records.job import JudgeHistograms
from qcrd.records.rationales import Rationale

LIVE, MOMENTS = "live", "moments"


@dataclass(frozen=True)
class State:
    """`tensors` by name: `weights/<iteration>` never change once made; `live` (the student in the
    middle of an iteration) and `moments` (the optimizer) do. `prepared` is what the iteration
    under way was given, `numbers` the rest; both are JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]
    prepared: Mapping[str, Any] | None = None


def weights_name(iteration: int) -> str:
    return f"weights/{iteration:06d}"


def capture(trainer: Trainer) -> State:
    best = trainer.best
    held = dict(trainer.ring.held)
    if best is not None:
        held[best.iteration] = best.weights
    tensors: dict[str, Mapping[str, Tensor]] = {weights_name(i): w for i, w in held.items()}
    if trainer.cursor:
        tensors[LIVE] = trainable(trainer.student)
    tensors[MOMENTS] = {
        f"{index}.{name}": tensor
        for index, moment in trainer.update.optimizer.state_dict()["state"].items()
        for name, tensor in moment.items()
    }
    numbers = {
        "begun": trainer.begun,
        "iteration": trainer.iteration,
        "step": trainer.step,
        "cursor": trainer.cursor,
        "ring": sorted(trainer.ring.held),
        "pretrained": trainer.pretrained,
        "best": None if best is None else [best.iteration, *best.score],
        "student_flops": trainer.student.flops,
        "sampler_flops": trainer.past.flops,
        "judge_flops": 0.0 if trainer.judge is None else trainer.judge.flops,
        "judge_version": trainer.judge_version,
    }
    return State(tensors, numbers, _packed(trainer.prepared))


def restore(trainer: Trainer, state: State) -> None:
    """Let `trainer` go on from `state`: the step after it is the one that would have come."""
    numbers, tensors = state.numbers, state.tensors
    trainer.begun = numbers["begun"]
    trainer.iteration, trainer.step = numbers["iteration"], numbers["step"]
    trainer.cursor = numbers["cursor"]
    trainer.prepared = _unpacked(state.prepared)
    trainer.ring.held = {i: tensors[weights_name(i)] for i in numbers["ring"]}
    newest = trainer.ring.held[trainer.iteration]
    weight_history.load(trainer.student, tensors[LIVE] if trainer.cursor else newest)
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors[MOMENTS].items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    trainer.update.optimizer.load_state_dict(
        {**trainer.update.optimizer.state_dict(), "state": moments}
    )
    trainer.student.flops = numbers["student_flops"]
    trainer.past.flops = numbers["sampler_flops"]
    if trainer.judge is not None:
        trainer.judge.flops = numbers["judge_flops"]
    trainer.pretrained = numbers["pretrained"]
    if numbers["best"] is not None:
        iteration, accuracy, minus_ce = numbers["best"]
        trainer.best = Best((accuracy, minus_ce), iteration, tensors[weights_name(iteration)])


def _packed(prepared: Prepared | None) -> dict[str, Any] | None:
    if prepared is None:
        return None
    return {
        "sampled": {
            key: [rationale.model_dump(mode="json") for rationale in said]
            for key, said in prepared.sampled.items()
        },
        "scores": prepared.scores,
        "health": prepared.health,
        "histograms": prepared.histograms and prepared.histograms.model_dump(mode="json"),
    }


def _unpacked(packed: Mapping[str, Any] | None) -> Prepared | None:
    if packed is None:
        return None
    sampled = {
        key: tuple(Rationale.model_validate(one) for one in said)
        for key, said in packed["sampled"].items()
    }
    shown = packed["histograms"] and JudgeHistograms.model_validate(packed["histograms"])
    return Prepared(sampled, packed["scores"], packed["health"], shown)
