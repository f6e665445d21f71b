"""A job's whole training stage: the method, its baselines, the report, the published student."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcrd.errors import QcrdError
from qcrd.method.evaluation import predict
from qcrd.method.evaluation.statistics import (
    compare_methods,
    flag_leaked,
    flag_repeated,
    wilson_interval,
)
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.prompts import format_question
from qcrd.method.student.base import Student, Weights
from qcrd.method.student.loading import load_matching_weights, load_student
from qcrd.method.training.distributed import DataParallelGroup
from qcrd.method.training.negative_sampler import InlineNegativeSampler, NegativeSampler
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.method.training.schedule import make_schedule
from qcrd.records.job import (
    Accuracy,
    Comparison,
    Job,
    JobStatus,
    LeakReport,
    ModelRef,
    Report,
    Stage,
)
from qcrd.records.spec import Baseline, TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.storage.store import write_lines
from services.trainer import preflight, publish, training_dataset
from services.trainer.checkpoint_store import Checkpoints, Result
from services.trainer.revision import pinned
from services.trainer.student_run import Course, train
from services.trainer.training_dataset import Knowledge

COST = {"finetune": 1.0, "single_task": 3.0, "dss": 3.0, "dss+positives": 4.0}
DEAREST = 6.0
"""Rough work per step against label-only finetuning, and that of the methods with negatives. They
only divide the progress bar."""


@dataclass(frozen=True)
class Parts:
    """What training is made of besides its knowledge. A `fixed` base is where the negative source
    of that name takes its weights from; `past` makes the sampler of negatives; `crew` are the
    other processes that train, None where there are none."""

    base: Path
    judge: Callable[[], JudgeBackend]
    fixed: Path | None = None
    past: Callable[[Student], NegativeSampler] = InlineNegativeSampler
    device: str = "cpu"
    checkpoint_seconds: float = 30.0
    crew: DataParallelGroup | None = None


def distil(stage: StageContext, parts: Parts) -> tuple[Report, str]:
    """The report and the published model's id. Done again, it repeats nothing that has ended."""
    job = stage.job
    spec, settings = job.spec, job.spec.settings
    if job.rationale_set is None:
        raise QcrdError(f"job {job.id} reached training without a rationale set")
    revision = pinned(stage, job.rationale_set)
    known = training_dataset.load(stage.store, job.rationale_set, spec, revision)
    stage.emit(
        f"{len(known.lessons)} questions to train on, {len(known.validation.questions)} to "
        f"validate on, {len(known.test)} to test on"
    )
    # Without edits the digest is what it was before there were any: old checkpoints stay good.
    edited = [revision.id] if revision.edits else []
    run = keys.digest(spec.model_dump_json(), job.rationale_set, *edited)
    checkpoints = Checkpoints(stage.store, job.id, run=run, seconds=parts.checkpoint_seconds)

    def student() -> Student:
        hyper = settings.hyperparameters
        made = load_student(
            parts.base, settings.student, hyper, seed=spec.seed, device=parts.device
        )
        preflight.check_labels(made, known.labels, spec)
        return made

    rows = [spec.method.value, *_without(settings.baselines, spec.method.value)]
    shares = _shares(rows)
    fixed = None if parts.fixed is None else _past_at(parts.fixed)
    results: dict[str, Result] = {}
    for index, row in enumerate(rows):
        equal = row == Baseline.FINETUNE_EQUAL_COMPUTE
        course = Course(
            plan=make_schedule(
                row,
                settings,
                n_examples=len(known.lessons),
                seed=spec.seed,
                flops=results[rows[0]].flops if equal else None,
            ),
            knowledge=known,
            student=student,
            judge=parts.judge() if OBJECTIVES[row].uses_judge else None,
            past=parts.past,
            crew=parts.crew,
            fixed=fixed if OBJECTIVES[row].uses_negatives else None,
            start=sum(shares[:index]),
            share=shares[index],
        )
        finished = _uploader(stage, job) if index == 0 else _keep_nothing
        results[row] = train(stage, course, checkpoints, finished)
    stage.enter_stage(Stage.EVALUATING)
    made = report(stage.job, known, results)
    write_lines(
        stage.store,
        keys.job_predictions_key(job.id),
        [
            prediction.model_copy(update={"method": row})
            for row in rows
            for prediction in results[row].predictions
        ],
    )
    stage.enter_stage(Stage.PUBLISHING)
    model = publish.announce(stage.store, stage.job, made)
    return made, model.id


def _past_at(checkpoint: Path) -> Callable[[Student], Weights]:
    return lambda student: load_matching_weights(student, checkpoint)


def report(job: Job, known: Knowledge, results: dict[str, Result]) -> Report:
    """Every row that there is, side by side, whatever it says."""
    golds = [item.gold for item in known.test]
    test: dict[str, Accuracy] = {}
    if golds:
        asked = [item for item in known.test if item.teacher_asked]
        if asked:
            test["teacher"] = wilson_interval(
                sum(t.teacher_answer == t.gold for t in asked), len(asked)
            )
        majority = [lesson.gold for lesson in known.lessons]
        test["majority_class"] = predict.majority_class_accuracy(majority, golds)
        test |= {row: result.test for row, result in results.items() if result.test}
    main = results[job.spec.method.value]
    exact, stories = _repetitions(known, job.spec.settings.task)
    unseen = _unseen(results, stories)
    notes = []
    if known.revision.edits:
        notes.append(
            f"people edited the rationale set before it was trained on (revision "
            f"{known.revision.id}); `rationales` counts what was assembled"
        )
    if not golds:
        notes.append("no test file was given: accuracies are on validation only")
    if unseen:
        left = next(iter(unseen.values())).n
        notes.append(
            f"{len(golds) - left} of {len(golds)} test questions occur in training under other "
            "numbers; `test_unseen` leaves them out"
        )
    return Report(
        job_id=job.id,
        status=JobStatus.SUCCEEDED,
        test=test,
        test_unseen=unseen,
        validation={row: result.validation for row, result in results.items()},
        rationales=known.manifest.counts,
        usage=job.usage,
        model=ModelRef(id=publish.model_id(job.id)),
        seconds=job.seconds,
        seed=job.spec.seed,
        judge=main.judge,
        notes=tuple(notes),
        leak=_leak(exact, stories) if golds else None,
        comparisons=_comparisons(job, results),
        rationale_revision=known.revision.id,
    )


def _repetitions(known: Knowledge, task: TaskSpec) -> tuple[list[bool], list[bool]]:
    """Which test questions occur in training as they are, and which under other numbers."""
    trained = [lesson.text for lesson in known.lessons]
    tested = [format_question(task, item.question) for item in known.test]
    return flag_repeated(trained, tested), flag_leaked(trained, tested)


def _leak(exact: Sequence[bool], stories: Sequence[bool]) -> LeakReport:
    return LeakReport(n_test=len(stories), n_leaked=sum(stories), n_exact=sum(exact))


def _comparisons(job: Job, results: dict[str, Result]) -> tuple[Comparison, ...]:
    """The method against every other row, question by question; none without a test set."""
    name = job.spec.method.value
    rights = {row: [p.right for p in result.predictions] for row, result in results.items()}
    return tuple(
        compare_methods((name, rights[name]), (row, right), seed=job.spec.seed)
        for row, right in rights.items()
        if row != name and right
    )


def _unseen(results: dict[str, Result], seen: Sequence[bool]) -> dict[str, Accuracy]:
    """Each student's accuracy on the test questions that it cannot have learned by heart."""
    if not any(seen) or all(seen):
        return {}
    rights = {
        row: [p.right for p, leak in zip(result.predictions, seen, strict=True) if not leak]
        for row, result in results.items()
    }
    return {row: wilson_interval(sum(right), len(right)) for row, right in rights.items()}


def _without(baselines: Sequence[Baseline], method: str) -> list[str]:
    return [row.value for row in dict.fromkeys(baselines) if row.value != method]


def _shares(rows: Sequence[str]) -> list[float]:
    """Each row's expected share of the job's training; equal compute costs what the method does."""
    costs = [
        COST.get(rows[0] if row == Baseline.FINETUNE_EQUAL_COMPUTE else row, DEAREST)
        for row in rows
    ]
    return [cost / sum(costs) for cost in costs]


def _uploader(stage: StageContext, job: Job) -> Callable[[Student], None]:
    return lambda student: publish.upload(stage.store, job, student)


def _keep_nothing(_: Student) -> None:
    """Baselines are measured, not published."""
