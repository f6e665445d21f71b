"""One training, alone or as one of several under torchrun: its loss curve and weights as a file."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from qcrd.method import crew
from qcrd.method.negatives import trainable
from qcrd.method.schedule import plan
from qcrd.method.trace import Step
from qcrd.method.training import Trainer
from tests.unit.test_training import judge, lessons, spec, student, validate


def curve(method: str, kind: str, out: Path, others: crew.Crew | None) -> None:
    made = plan(method, spec(batch_size=7), lessons=len(lessons()), seed=5)
    trainer = Trainer(student(kind), lessons(), made, validate, judge(), crew=others)
    steps = [record for record in trainer.run() if isinstance(record, Step)]
    parts = [{**step.parts, "norm": step.norm} for step in steps]
    torch.save((parts, trainable(trainer.student), trainer.flops), out)


def main() -> None:
    method, kind, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if not crew.wanted():
        curve(method, kind, out, None)
    elif crew.is_first():
        with crew.Crew() as others:
            curve(method, kind, out, others)
    else:
        crew.follow("cpu")


if __name__ == "__main__":
    main()
