"""Small students that have learned something, published as the trainer publishes them."""

from __future__ import annotations

import tempfile
import time
from functools import cache
from pathlib import Path

import torch

from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_student
from qcrd.method.student.targets import Target, reasoned_target
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.job import Job, JobStatus, ModelRef, Report, Usage
from qcrd.records.rationales import RationaleCounts
from qcrd.records.specs.spec import JobSpec, MethodName, MethodSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store
from services.trainer.results import publish
from services.trainer.results.answering import StudentAnswers
from tests import tiny

REASONS = {
    "trout": ("animal", "it swims in water"),
    "apple": ("fruit", "it grows on trees"),
    "hammer": ("tool", "it hits nails"),
    "violin": ("instrument", "it plays music"),
}
STEPS = 120
STUDENT = StudentSpec(decoder_layers=1)
HYPER = Hyperparameters(max_label_tokens=4, max_rationale_tokens=8)
COUNTS = RationaleCounts(
    questions=4,
    outputs=4,
    parsed=4,
    unparseable=0,
    majority_right=4,
    majority_wrong=0,
    ties=0,
    positives=4,
    negatives=0,
)


def question(thing: str) -> str:
    return f"what kind of thing is a {thing} ?"


def published(
    store: Store,
    *,
    kind: str = "t5",
    method: MethodName = MethodName.DSS,
    student: StudentSpec = STUDENT,
    answers: StudentAnswers | None = None,
) -> str:
    """The id of a new model that knows `REASONS` by heart; `answers` were measured of it."""
    task = TaskSpec.model_validate(
        {"answer": "label", "labels": [label for label, _ in REASONS.values()]}
    )
    spec = JobSpec(
        model=f"tiny-{kind}",
        training_file=keys.new_id("file"),
        method=method,
        settings=MethodSpec(task=task, hyperparameters=HYPER, student=student),
    )
    job = Job(id=keys.new_id("ftjob"), spec=spec, status=JobStatus.RUNNING, created_at=time.time())
    made = taught(kind, method, student)
    publish.upload_model(store, job, made, answers or StudentAnswers((), ()))
    report = Report(
        job_id=job.id,
        status=JobStatus.SUCCEEDED,
        test={},
        rationales=COUNTS,
        usage=Usage(),
        model=ModelRef(id=publish.model_id(job.id)),
        seconds={},
        seed=0,
    )
    return publish.publish_model(store, job, report).id


@cache
def taught(kind: str, method: MethodName, spec: StudentSpec = STUDENT) -> Student:
    template = tiny.CHAT_TEMPLATE if spec.prompt == "chat" else None
    with tempfile.TemporaryDirectory() as folder:
        base = tiny.save_base(Path(folder), kind, chat_template=template)
        student = load_student(base, spec, HYPER, seed=0)
    if spec.answers == "reasoned":
        pairs = [
            (EXPLAIN_PREFIX + question(thing), reasoned_target(reason, label))
            for thing, (label, reason) in REASONS.items()
        ]
    else:
        told = [pair for thing in REASONS for pair in lessons(thing, method)]
        pairs = [(prompt, Target(target)) for prompt, target in told]
    learner = torch.optim.AdamW(student.model.parameters(), lr=5e-3)
    student.model.eval()  # by heart: without dropout
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more cost such a small model several times as long
    for _ in range(STEPS):
        total, count = student.cross_entropy(
            [prompt for prompt, _ in pairs],
            range(len(pairs)),
            [target for _, target in pairs],
        )
        learner.zero_grad()
        (total.sum() / count.sum()).backward()
        learner.step()
    torch.set_num_threads(threads)
    return student


def lessons(thing: str, method: MethodName) -> list[tuple[str, str]]:
    """Prompt and target of each task, in the words of `qcrd.method`."""
    label, reason = REASONS[thing]
    objective = OBJECTIVES[method]
    if objective.joined:
        return [(PREDICT_PREFIX + question(thing), f"{reason} answer: {label}")]
    explained = [(EXPLAIN_PREFIX + question(thing), reason)] * (objective.max_positives != 0)
    return [(PREDICT_PREFIX + question(thing), label), *explained]
