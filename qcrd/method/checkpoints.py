"""A trainer between two iterations as named tensors and numbers, and back.

Batches, dropout and samples are functions of (seed, iteration, step), so no generator is saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qcrd.method import negatives
from qcrd.method.negatives import Weights
from qcrd.method.training import Best, Trainer


@dataclass(frozen=True)
class State:
    """`weights` by iteration never change once made: those of the ring and of the best one."""

    weights: Mapping[int, Weights]
    moments: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


def capture(trainer: Trainer) -> State:
    best = trainer.best
    weights = dict(trainer.ring.held)
    if best is not None:
        weights[best.iteration] = best.weights
    moments = {
        f"{index}.{name}": tensor
        for index, moment in trainer.optimizer.state_dict()["state"].items()
        for name, tensor in moment.items()
    }
    numbers = {
        "iteration": trainer.iteration,
        "step": trainer.step,
        "ring": sorted(trainer.ring.held),
        "pretrained": trainer.pretrained,
        "best": None if best is None else [best.iteration, *best.score],
        "student_flops": trainer.student.flops,
        "sampler_flops": 0.0 if trainer.sampler is None else trainer.sampler.flops,
        "judge_flops": 0.0 if trainer.judge is None else trainer.judge.flops,
    }
    return State(weights, moments, numbers)


def restore(trainer: Trainer, state: State) -> None:
    """Let `trainer` go on from `state`; its student gets the newest iteration's weights."""
    numbers = state.numbers
    trainer.iteration, trainer.step = numbers["iteration"], numbers["step"]
    trainer.ring.held = {iteration: state.weights[iteration] for iteration in numbers["ring"]}
    negatives.load(trainer.student, trainer.ring.held[trainer.iteration])
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.moments.items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
    trainer.student.flops = numbers["student_flops"]
    trainer.past_self().flops = numbers["sampler_flops"]
    if trainer.judge is not None:
        trainer.judge.flops = numbers["judge_flops"]
    trainer.pretrained = numbers["pretrained"]
    if numbers["best"] is not None:
        iteration, accuracy, minus_ce = numbers["best"]
        trainer.best = Best((accuracy, minus_ce), iteration, state.weights[iteration])
