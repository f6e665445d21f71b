"""One run of the ladder: train a student, evaluate it on the test questions, record diagnostics."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students
from benchmarks.ladder.data import DATASETS, LadderData
from benchmarks.ladder.probe import ObservedJudge, measure_picks
from qcrd.method.evaluation import predict
from qcrd.method.judge.model import Judge
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_encoder, load_student
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import TrainingSchedule, make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.records.rationales import Prediction
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import Hyperparameters, JudgeSpec, NegativeSpec, StudentSpec
from services.trainer.data.training_dataset import LabeledQuestions
from services.trainer.results.measuring import compute_validation_score


@dataclass(frozen=True)
class Conditions:
    """The settings shared by all runs of a results file, written into each of its lines."""

    student: str
    flops: float
    learning_rate: float
    batch_size: int
    iteration_steps: int
    warmup_steps: int
    train: int | None
    validate: int | None
    test: int | None
    precision: Literal["fp32", "bf16"]
    lag: int
    judge_pretrain_steps: int
    judge_update_steps: int
    judge_batch_size: int
    judge_tokens: int
    rationale_tokens: int | None
    device: str = "cpu"

    def make_method_spec(self, dataset: str) -> MethodSpec:
        shape = DATASETS[dataset]
        return MethodSpec(
            task=shape.task,
            negatives=NegativeSpec(lag=self.lag),
            discriminator=JudgeSpec(
                pretrain_steps=self.judge_pretrain_steps,
                update_steps=self.judge_update_steps,
                batch_size=self.judge_batch_size,
                max_tokens=self.judge_tokens,
            ),
            student=StudentSpec(decoder_layers=2),
            hyperparameters=Hyperparameters(
                iteration_steps=self.iteration_steps,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                warmup_steps=self.warmup_steps,
                max_question_tokens=shape.question_tokens,
                max_rationale_tokens=min(
                    shape.rationale_tokens, self.rationale_tokens or shape.rationale_tokens
                ),
                max_label_tokens=shape.label_tokens,
                precision=self.precision,
            ),
        )


def run_condition(
    data: Path, models: Path, dataset: str, method: str, seed: int, conditions: Conditions
) -> dict[str, Any]:
    """Train and evaluate one student; returns the line of the results file."""
    spec = conditions.make_method_spec(dataset)
    loaded = ladder_data.load_data(
        data / dataset, DATASETS[dataset], spec,
        seed=seed, train=conditions.train, validate=conditions.validate, test=conditions.test,
    )  # fmt: skip
    planned = make_schedule(
        method, spec, n_examples=len(loaded.lessons), seed=seed, flops=conditions.flops
    )
    base = students.get_checkpoint(conditions.student, models)
    student = load_student(
        base, spec.student, spec.hyperparameters, seed=seed, device=conditions.device
    )
    judge = None
    if planned.objective.uses_judge:
        judge = ObservedJudge(
            load_judge(models, spec.discriminator, seed).to(conditions.device),
            spec.discriminator,
            loaded,
            spec.task,
            seed=seed,
        )
    trainer = Trainer(
        student,
        loaded.lessons,
        planned,
        lambda tested: compute_validation_score(tested, loaded.validation, planned),
        judge,
    )
    started = time.perf_counter()
    steps, rounds = train(trainer)
    trained = time.perf_counter() - started
    flops, by_part = trainer.flops, _flops_by_part(trainer)  # evaluation is not part of the budget
    trainer.restore_best()
    predictions = predict_test(student, loaded.test, planned)
    return {
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "conditions": {**asdict(conditions), **describe_machine()},
        "questions": {
            "train": len(loaded.lessons),
            "validation": len(loaded.validation.questions),
            "test": len(predictions),
        },
        "import": loaded.counts.model_dump(),
        "steps": trainer.step,
        "flops": flops,
        "flops_by_part": by_part,
        "seconds": trained,
        "test_seconds": time.perf_counter() - started - trained,
        "iteration_seconds": rounds,
        "best_iteration": trainer.best.iteration if trainer.best else 0,
        "validation": trainer.best.score[0] if trainer.best else None,
        **measure_predictions(predictions, loaded),
        "loss": steps,
        "judge_pretrained": trainer.pretrain_metrics,
        "judged": judge.observations if judge else [],
        "picks": measure_picks(student, loaded.lessons)
        if planned.objective.max_positives is None
        else {},
        "predictions": [
            {"id": p.question_id, "text": p.text, "answer": p.answer, "gold": p.gold, "seen": seen}
            for p, seen in zip(predictions, loaded.seen, strict=True)
        ],
    }


def train(trainer: Trainer) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Train to the end; returns every step's loss terms and each iteration's result."""
    steps: list[dict[str, float]] = []
    iterations: list[dict[str, float]] = []
    last = time.perf_counter()
    for event in trainer.run():
        if isinstance(event, StepFinished):
            steps.append({name: round(value, 4) for name, value in event.losses.items()})
        elif isinstance(event, IterationFinished):
            now = time.perf_counter()
            iterations.append(
                {
                    "iteration": event.iteration,
                    "validation": event.validation_accuracy,
                    "flops": event.flops,
                    "seconds": now - last,
                    **event.judge_metrics,
                }
            )
            last = now
    return steps, iterations


def predict_test(
    student: Student, held: LabeledQuestions, planned: TrainingSchedule
) -> list[Prediction]:
    hyper = planned.spec.hyperparameters
    return predict.predict(
        student,
        held.questions,
        held.golds,
        planned.spec.task,
        max_new_tokens=hyper.max_label_tokens,
    )


def measure_predictions(
    predictions: Sequence[Prediction], loaded: LadderData
) -> dict[str, float | None]:
    """Accuracies: `test` by the answer's value; `label_as_written` by exact text (SVAMP's labels
    are equations); `unseen` without the questions that also occur in training."""
    unseen = [p.right for p, seen in zip(predictions, loaded.seen, strict=True) if not seen]
    pairs = zip(predictions, loaded.test.labels, strict=True)
    exact_matches = [_normalize(p.text) == _normalize(label) for p, label in pairs]
    golds = [lesson.gold for lesson in loaded.lessons]
    return {
        "test": predict.accuracy(predictions).accuracy,
        "label_as_written": sum(exact_matches) / len(exact_matches),
        "unparseable": sum(p.answer is None for p in predictions) / len(predictions),
        "unseen": sum(unseen) / len(unseen) if unseen else None,
        "unseen_questions": len(unseen),
        "majority_class": predict.majority_class_accuracy(golds, loaded.test.golds).accuracy,
    }


def _normalize(text: str) -> str:
    return "".join(text.casefold().split())


def load_judge(models: Path, spec: JudgeSpec, seed: int) -> Judge:
    """Build the judge as the discriminator service does."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder, tokenizer = load_encoder(students.get_checkpoint("minilm", models))
        return Judge(encoder, tokenizer, hidden=spec.hidden, max_tokens=spec.max_tokens)


def _flops_by_part(trainer: Trainer) -> dict[str, float]:
    parts = {
        "student": trainer.student,
        "sampler": trainer.negative_sampler,
        "judge": trainer.judge,
    }
    return {name: part.flops for name, part in parts.items() if part is not None}


def describe_machine() -> dict[str, Any]:
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
