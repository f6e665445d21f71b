"""A trainer between two iterations as named tensors and numbers, and back.

Batches, dropout and samples are functions of (seed, iteration, step), so no generator is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from qcrd.method import negatives
from qcrd.method.training import Trainer


@dataclass(frozen=True)
class State:
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def capture(trainer: Trainer) -> State:
    held = {f"ring.{i}.{k}": t for i, ring in trainer.ring.held.items() for k, t in ring.items()}
    in_ring = [i for i, w in trainer.ring.held.items() if trainer.best and w is trainer.best[1]]
    kept = {} if in_ring or trainer.best is None else trainer.best[1]
    best = {f"best.{k}": t for k, t in kept.items()}
    moments = {
        f"optimizer.{index}.{name}": tensor
        for index, moment in trainer.optimizer.state_dict()["state"].items()
        for name, tensor in moment.items()
    }
    numbers = {
        "iteration": trainer.iteration,
        "step": trainer.step,
        "student_flops": trainer.student.flops,
        "sampler_flops": 0.0 if trainer.sampler is None else trainer.sampler.flops,
        "judge_flops": 0.0 if trainer.judge is None else trainer.judge.flops,
        "best_iteration": in_ring[0] if in_ring else None,
        "best_score": None if trainer.best is None else list(trainer.best[0]),
    }
    return State({**held, **best, **moments}, numbers)


def restore(trainer: Trainer, state: State) -> None:
    """Let `trainer` go on from `state`; its student gets the newest iteration's weights."""
    ring: dict[int, dict[str, Tensor]] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    best: dict[str, Tensor] = {}
    for key, tensor in state.tensors.items():
        kind, rest = key.split(".", 1)
        if kind == "best":
            best[rest] = tensor
        else:
            index, name = rest.split(".", 1)
            (ring if kind == "ring" else moments).setdefault(int(index), {})[name] = tensor
    numbers = state.numbers
    trainer.iteration, trainer.step = numbers["iteration"], numbers["step"]
    trainer.ring.held = dict(ring)
    negatives.load(trainer.student, ring[trainer.iteration])
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": moments})
    trainer.student.flops = numbers["student_flops"]
    trainer.past_self().flops = numbers["sampler_flops"]
    if trainer.judge is not None:
        trainer.judge.flops = numbers["judge_flops"]
    if numbers["best_score"] is not None:
        accuracy, minus_ce = numbers["best_score"]
        trainer.best = ((accuracy, minus_ce), ring.get(numbers["best_iteration"], best))
