"""One training, alone or as one of several under torchrun: its loss curve and weights as a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from qcrd.method.training import distributed
from qcrd.method.training.progress import Step
from qcrd.method.training.schedule import plan
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import trainable
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate


def curve(method: str, kind: str, out: Path, others: distributed.Crew | None) -> None:
    made = plan(method, spec(batch_size=7), lessons=len(lessons()), seed=5)
    trainer = Trainer(student(kind), lessons(), made, validate, judge(), crew=others)
    steps = [record for record in trainer.run() if isinstance(record, Step)]
    parts = [{**step.parts, "norm": step.norm} for step in steps]
    torch.save((parts, trainable(trainer.student), trainer.flops), out)


def main() -> None:
    method, kind, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if not distributed.wanted():
        curve(method, kind, out, None)
    elif distributed.is_first():
        with distributed.Crew() as others:
            curve(method, kind, out, others)
    else:
        distributed.follow("cpu")


if __name__ == "__main__":
    main()
