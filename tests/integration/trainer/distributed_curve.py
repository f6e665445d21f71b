"""One training, alone or on each of several ranks: its loss curve and weights as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from qcrd.method.distributed import sharding
from qcrd.method.distributed.process_ranks import ProcessRanks
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.judge.shared import SharedJudge
from qcrd.method.training.negative_sampler import copy_student
from qcrd.method.training.progress import StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

Curve = tuple[list[dict[str, float]], dict[str, torch.Tensor], dict[str, float]]


def make_trainer(method: str, kind: str, ranks: Ranks, mesh: DeviceMesh | None) -> Trainer:
    schedule = make_schedule(method, spec(batch_size=7), n_examples=len(lessons()), seed=5)
    trained = student(kind)
    trained.ranks = ranks
    whole = None if mesh is None else copy_student(trained)
    own_judge = judge() if ranks.is_main else None
    shared = SharedJudge(own_judge, ranks)
    return Trainer(
        trained, lessons(), schedule, validate, shared, mesh=mesh, whole_student=whole
    )


def curve(method: str, kind: str, ranks: Ranks, mesh: DeviceMesh | None) -> Curve:
    trainer = make_trainer(method, kind, ranks, mesh)
    steps = [record for record in trainer.run() if isinstance(record, StepFinished)]
    parts = [step.losses | {"norm": step.gradient_norm} for step in steps]
    work = {"flops": trainer.flops, "tokens": trainer.student.tokens}
    weights = sharding.gather_whole(
        copy_trainable_weights(trainer.student), trainer.student.device
    )
    return parts, weights, work


def run_cases(cases: Sequence[Sequence[str]], ranks: Ranks, mesh: DeviceMesh | None) -> list[Any]:
    return [curve(method, kind, ranks, mesh) for method, kind in cases]


def main() -> None:
    """`shards CASE... OUT`: all cases in one start; a case is METHOD:KIND."""
    shards, *cases, out = sys.argv[1:]
    torch.set_num_threads(1)
    with ProcessRanks() as ranks:
        mesh = sharding.make_mesh("cpu", replicas=ranks.size // int(shards), shards=int(shards))
        result = run_cases([case.split(":") for case in cases], ranks, mesh)
        if ranks.is_main:
            torch.save(result, Path(out))


if __name__ == "__main__":
    main()
