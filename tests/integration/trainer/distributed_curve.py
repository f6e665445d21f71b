"""One training, alone or as one of several under torchrun: its loss curve and weights as a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from qcrd.method.training import distributed
from qcrd.method.training.progress import StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate


def curve(method: str, kind: str, out: Path, others: distributed.DataParallelGroup | None) -> None:
    made = make_schedule(method, spec(batch_size=7), n_examples=len(lessons()), seed=5)
    trainer = Trainer(student(kind), lessons(), made, validate, judge(), process_group=others)
    steps = [record for record in trainer.run() if isinstance(record, StepFinished)]
    # The norms of single terms are measured in one process only.
    parts = [
        {name: value for name, value in step.losses.items() if not name.endswith("_gradient")}
        | {"norm": step.gradient_norm}
        for step in steps
    ]
    work = {"flops": trainer.flops, "tokens": trainer.student.tokens}
    torch.save((parts, copy_trainable_weights(trainer.student), work), out)


def main() -> None:
    method, kind, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if not distributed.is_distributed():
        curve(method, kind, out, None)
    elif distributed.is_main_process():
        with distributed.DataParallelGroup() as others:
            curve(method, kind, out, others)
    else:
        distributed.run_replica("cpu")


if __name__ == "__main__":
    main()
